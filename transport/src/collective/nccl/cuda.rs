//! One rank's communicator on its device, through cudarc. Never run on a GPU, only compiled.
//!
//! Not here: waits and deadlines (`owner`). Invariants: everything happens on the thread that opened it, on one stream;
//! nothing is put on the stream between the start of a gather and NCCL's word that the launch is through; a buffer is
//! freed in the order of the stream, so after the kernel that uses it.
#![expect(unsafe_code, reason = "NCCL and CUDA are C libraries")]

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DriverError};
use cudarc::nccl::result::{self, NcclStatus};
use cudarc::nccl::sys::{self, ncclComm_t, ncclDataType_t, ncclResult_t};
use protocol::{Rank, WorldSize};

use super::library::nccl_error;
use super::owner::Device;
use super::{NcclError, NcclId};

/// How long a communicator that closes in peace may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two looks while it does.
const CLOSE_PAUSE: Duration = Duration::from_millis(1);
/// Marks a configuration as initialised (nccl.h, NCCL_CONFIG_INITIALIZER).
const CONFIG_MAGIC: u32 = 0xcafe_beef;
/// The header from which the bindings' configuration comes (nccl.h, NCCL_VERSION_CODE). An older library reads the part
/// that it knows, a newer one fills in what it has more.
const CONFIG_VERSION: u32 = 23_000;
/// "Decide yourself" (nccl.h, NCCL_CONFIG_UNDEF_INT).
const UNDEFINED: i32 = i32::MIN;

/// Which CUDA device of this host, as the driver counts those that `CUDA_VISIBLE_DEVICES` leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CudaOrdinal(pub u16);

impl fmt::Display for CudaOrdinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A rank's place in a communicator.
pub(super) struct Seat {
    pub(super) device: CudaOrdinal,
    pub(super) id: NcclId,
    pub(super) rank: Rank,
    pub(super) world: WorldSize,
}

/// ```text
///   open ──▶ Opening ──▶ Idle ── start ──▶ Launching ──▶ Running ──▶ Idle
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// NCCL connects the ranks in the background.
    Opening,
    Idle,
    /// NCCL puts the kernel on the stream in the background.
    Launching,
    /// `done` is behind the kernel on the stream.
    Running,
}

/// Neither `Send` nor `Sync`, by its pointer.
pub(super) struct CudaComm {
    /// Null once it is ended.
    comm: ncclComm_t,
    stage: Stage,
    /// `[width]`, and room
    sent: CudaSlice<f32>,
    /// `[world, width]`, and room
    received: CudaSlice<f32>,
    done: CudaEvent,
    stream: Arc<CudaStream>,
    device: CudaOrdinal,
    world: usize,
}

impl CudaComm {
    /// Begins to connect the ranks. Only after the libraries were found.
    pub(super) fn open(seat: &Seat) -> Result<Self, NcclError> {
        let device = seat.device;
        let failed = |doing| move |e| driver_error(device, doing, e);
        let context = CudaContext::new(usize::from(device.0)).map_err(failed("opening it"))?;
        // SAFETY: the events would order several streams; one stream does everything here.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed("making a stream"))?;
        let done = context.new_event(None).map_err(failed("making an event"))?;
        let sent = stream.alloc_zeros(1).map_err(failed("allocating"))?;
        let received = stream.alloc_zeros(1).map_err(failed("allocating"))?;
        let world = usize::from(seat.world.get());
        let mut this =
            Self { comm: std::ptr::null_mut(), stage: Stage::Opening, sent, received, done, stream, device, world };
        let mut config = config();
        // SAFETY: both pointers are to live values of the bindings' types, the configuration is initialised as nccl.h
        // says, and NCCL copies it before it returns. The device's context is current on this thread (`CudaContext::new`).
        let begun = unsafe {
            result::comm_init_rank_config(
                &mut this.comm,
                i32::from(seat.world.get()),
                seat.id.to_nccl(),
                i32::from(seat.rank.0),
                &mut config,
            )
        };
        begun.map_err(|e| nccl_error("joining the communicator", e.0))?;
        Ok(this)
    }

    /// Whether NCCL has nothing under way in the background.
    fn settled(&self, doing: &'static str) -> Result<bool, NcclError> {
        let mut state = ncclResult_t::ncclSuccess;
        // SAFETY: `comm` came from an initialisation that began without an error and is not ended, as both ends take
        // `self`; this is its only thread.
        let asked = unsafe { sys::ncclCommGetAsyncError(self.comm, &mut state) };
        asked.result().map_err(|e| nccl_error("asking for its state", e.0))?;
        match state {
            ncclResult_t::ncclSuccess => Ok(true),
            ncclResult_t::ncclInProgress => Ok(false),
            failed => Err(nccl_error(doing, failed)),
        }
    }

    /// Room for a gather; what was in the buffers is lost when they grow.
    fn reserve(&mut self, width: usize) -> Result<(), DriverError> {
        let total = width * self.world;
        if self.sent.len() < width {
            self.sent = self.stream.alloc_zeros(width)?;
        }
        if self.received.len() < total {
            self.received = self.stream.alloc_zeros(total)?;
        }
        Ok(())
    }

    fn launch(&mut self, width: usize) -> Result<NcclStatus, NcclError> {
        // Without event tracking these guards do nothing when they are dropped.
        let (sent, _sent) = self.sent.device_ptr(&self.stream);
        let (received, _received) = self.received.device_ptr_mut(&self.stream);
        // SAFETY: device pointers to at least `width` and `world * width` values (`reserve`), which live until the
        // stream has passed this kernel; communicator and stream are of one device, whose context is current on this
        // thread, the communicator's only one.
        let begun = unsafe {
            result::all_gather(
                sent as *const _,
                received as *mut _,
                width,
                ncclDataType_t::ncclFloat32,
                self.comm,
                self.stream.cu_stream().cast(),
            )
        };
        begun.map_err(|e| nccl_error("gathering", e.0))
    }

    fn driver(&self, doing: &'static str) -> impl FnOnce(DriverError) -> NcclError + use<> {
        let device = self.device;
        move |e| driver_error(device, doing, e)
    }

    /// Lets NCCL send what it has begun and ends it.
    fn finish(&mut self) -> Result<(), NcclError> {
        // SAFETY: a live communicator (see `settled`) with nothing under way on this thread.
        unsafe { result::comm_finalize(self.comm) }.map_err(|e| nccl_error("closing", e.0))?;
        let until = Instant::now() + CLOSE_TIMEOUT;
        while !self.settled("closing")? {
            if Instant::now() >= until {
                return Err(nccl_error("closing in time", ncclResult_t::ncclInProgress));
            }
            std::thread::sleep(CLOSE_PAUSE);
        }
        let comm = std::mem::replace(&mut self.comm, std::ptr::null_mut());
        // SAFETY: finalised, and the pointer to it is gone from `self`.
        unsafe { result::comm_destroy(comm) }.map_err(|e| nccl_error("closing", e.0)).map(drop)
    }
}

impl Device for CudaComm {
    fn poll(&mut self) -> Result<bool, NcclError> {
        match self.stage {
            Stage::Opening => {
                if self.settled("joining the communicator")? {
                    self.stage = Stage::Idle;
                }
            }
            Stage::Launching => {
                if self.settled("gathering")? {
                    self.done.record(&self.stream).map_err(self.driver("marking the end of a gather"))?;
                    self.stage = Stage::Running;
                }
            }
            Stage::Running => {
                // An error of the network would leave the kernel waiting for ever.
                self.settled("gathering")?;
                if self.done.try_is_complete().map_err(self.driver("gathering"))? {
                    self.stage = Stage::Idle;
                }
            }
            Stage::Idle => {}
        }
        Ok(self.stage == Stage::Idle)
    }

    fn start(&mut self, mine: &[f32], width: usize) -> Result<(), NcclError> {
        self.reserve(width).map_err(self.driver("allocating"))?;
        if !mine.is_empty() {
            self.stream.memcpy_htod(mine, &mut self.sent).map_err(self.driver("copying to it"))?;
        }
        self.launch(width)?;
        self.stage = Stage::Launching;
        Ok(())
    }

    fn read(&mut self, received: &mut [f32]) -> Result<(), NcclError> {
        let from = self.received.slice(..received.len());
        // The host's memory is pageable, so this returns when the values are there.
        self.stream.memcpy_dtoh(&from, received).map_err(self.driver("copying from it"))
    }

    fn close(mut self) {
        if let Err(e) = self.finish() {
            tracing::warn!(error = %e, "an NCCL communicator did not close in peace and is aborted");
        }
    }

    fn abort(self) {}
}

impl Drop for CudaComm {
    /// Aborts, unless it was closed: kernels that wait for peers end, so that the buffers can be freed.
    fn drop(&mut self) {
        if self.comm.is_null() {
            return;
        }
        // SAFETY: not ended yet, and `self` is gone after this; NCCL lets a communicator be aborted in every state.
        if let Err(e) = unsafe { result::comm_abort(self.comm) } {
            tracing::warn!(error = %nccl_error("aborting", e.0), "an NCCL communicator did not end");
        }
    }
}

fn driver_error(device: CudaOrdinal, doing: &'static str, e: DriverError) -> NcclError {
    NcclError::Cuda { device, doing, reason: e.to_string() }
}

/// Non-blocking; NCCL decides all else.
fn config() -> sys::ncclConfig_t {
    sys::ncclConfig_t {
        size: size_of::<sys::ncclConfig_t>(),
        magic: CONFIG_MAGIC,
        version: CONFIG_VERSION,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: std::ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: std::ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
        graphUsageMode: UNDEFINED,
        numRmaCtx: UNDEFINED,
        maxP2pPeers: UNDEFINED,
    }
}
