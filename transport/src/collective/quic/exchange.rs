//! One all-to-all exchange: this rank's values go to every peer in pieces, theirs come in, both directions interleaved.
//!
//! Invariant: a value is taken only from a piece that says it is the one due, of this epoch, operation and length.

use protocol::frame::{FrameHeader, HEADER_BYTES};
use protocol::step::{PIECE_HEAD_BYTES, PIECE_VALUES_MAX, PieceHead};
use protocol::{Epoch, FrameError, Kind, Rank};

use super::driver::Driver;
use super::link::Link;
use crate::collective::CollectiveError;

#[cfg(target_endian = "big")]
compile_error!("values travel as little-endian f32 and are not swapped");

/// Bytes before the values of a piece.
const OPENING_BYTES: usize = HEADER_BYTES + PIECE_HEAD_BYTES;
const VALUE_BYTES: usize = size_of::<f32>();
/// Bytes that one link takes before the others and the socket get their turn.
const SLICE_BYTES: usize = PIECE_VALUES_MAX as usize * VALUE_BYTES;

/// What all links of one exchange have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation {
    pub(super) epoch: Epoch,
    pub(super) op: u64,
}

impl Operation {
    /// The head of the piece that starts at value `at` of `total`, and how many values it has.
    fn piece(self, at: usize, total: usize) -> (PieceHead, usize) {
        let narrow = |n: usize| u32::try_from(n).expect("checked by `check_total` before anything is sent");
        let values = (total - at).min(PIECE_VALUES_MAX as usize);
        (PieceHead { op: self.op, at: narrow(at), total: narrow(total) }, values)
    }

    fn opening(self, at: usize, total: usize) -> [u8; OPENING_BYTES] {
        let (head, values) = self.piece(at, total);
        let body_len = u32::try_from(PIECE_HEAD_BYTES + values * VALUE_BYTES).expect("a piece is 256 KiB at most");
        let mut out = [0; OPENING_BYTES];
        out[..HEADER_BYTES]
            .copy_from_slice(&FrameHeader { kind: Kind::Collective, epoch: self.epoch, body_len }.encode());
        out[HEADER_BYTES..].copy_from_slice(&head.encode());
        out
    }

    /// Whether `opening`, which came from `rank`, is that of the piece due at value `at` of `total`.
    fn check(self, rank: Rank, opening: &[u8; OPENING_BYTES], at: usize, total: usize) -> Result<(), CollectiveError> {
        let (header, head) = opening.split_at(HEADER_BYTES);
        let header = header.try_into().expect("split at HEADER_BYTES");
        let header = FrameHeader::decode(header).map_err(|e| CollectiveError::bad_frame(rank, &e))?;
        if header.epoch != self.epoch {
            return Err(CollectiveError::WrongEpoch { rank, found: header.epoch, expected: self.epoch });
        }
        if header.kind != Kind::Collective {
            let e = FrameError::UnexpectedKind { found: header.kind, expected: Kind::Collective };
            return Err(CollectiveError::bad_frame(rank, &e));
        }
        let found = PieceHead::decode(head.try_into().expect("the rest is a piece's head"));
        let (expected, values) = self.piece(at, total);
        if found != expected {
            return Err(CollectiveError::OutOfStep { rank, found, expected });
        }
        if header.body_len as usize != PIECE_HEAD_BYTES + values * VALUE_BYTES {
            let reason = format!("piece of {} bytes at {found}, expected {values} values", header.body_len);
            return Err(CollectiveError::BadFrame { rank, reason });
        }
        Ok(())
    }
}

/// Refuses a contribution whose values a piece's head cannot count.
pub(super) fn check_total(values: usize) -> Result<(), CollectiveError> {
    const MAX: usize = u32::MAX as usize;
    if values > MAX {
        return Err(CollectiveError::WrongLength { what: "values at once", found: values, expected: MAX });
    }
    Ok(())
}

/// One peer's part of an exchange.
pub(super) struct Transfer {
    rank: Rank,
    link: Link,
    out_at: usize,
    out_in_piece: usize,
    out_done: bool,
    opening: [u8; OPENING_BYTES],
    opening_have: usize,
    /// Values that have come, whole pieces; bytes of the current one.
    in_at: usize,
    in_piece: usize,
    in_done: bool,
}

impl Transfer {
    pub(super) fn new(rank: Rank, link: Link) -> Self {
        Self {
            rank,
            link,
            out_at: 0,
            out_in_piece: 0,
            out_done: false,
            opening: [0; OPENING_BYTES],
            opening_have: 0,
            in_at: 0,
            in_piece: 0,
            in_done: false,
        }
    }

    pub(super) fn rank(&self) -> Rank {
        self.rank
    }

    pub(super) fn is_done(&self) -> bool {
        self.out_done && self.in_done
    }

    /// Moves what can be moved; `theirs` is as long as the peer's contribution.
    pub(super) fn advance(
        &mut self,
        driver: &mut Driver,
        operation: Operation,
        mine: &[f32],
        theirs: &mut [f32],
    ) -> Result<(), CollectiveError> {
        let rank = self.rank;
        let lost = |reason| CollectiveError::PeerLost { rank, reason };
        // Reading first: a peer that has sent everything and left has still taken part.
        self.receive(driver, operation, theirs)?;
        self.send(driver, operation, bytemuck::cast_slice(mine)).map_err(lost)
    }

    fn send(
        &mut self,
        driver: &mut Driver,
        operation: Operation,
        mine: &[u8],
    ) -> Result<(), crate::quic::ConnectionLost> {
        let total = mine.len() / VALUE_BYTES;
        let mut moved = 0;
        while !self.out_done && moved < SLICE_BYTES {
            let (_, values) = operation.piece(self.out_at, total);
            let piece_bytes = OPENING_BYTES + values * VALUE_BYTES;
            let n = if self.out_in_piece < OPENING_BYTES {
                let opening = operation.opening(self.out_at, total);
                self.link.write(driver, &opening[self.out_in_piece..])?
            } else {
                let start = self.out_at * VALUE_BYTES + self.out_in_piece - OPENING_BYTES;
                let end = (self.out_at + values) * VALUE_BYTES;
                self.link.write(driver, &mine[start..end])?
            };
            if n == 0 {
                break;
            }
            moved += n;
            self.out_in_piece += n;
            if self.out_in_piece == piece_bytes {
                self.out_at += values;
                self.out_in_piece = 0;
                self.out_done = self.out_at == total;
            }
        }
        Ok(())
    }

    fn receive(
        &mut self,
        driver: &mut Driver,
        operation: Operation,
        theirs: &mut [f32],
    ) -> Result<(), CollectiveError> {
        let rank = self.rank;
        let lost = |reason| CollectiveError::PeerLost { rank, reason };
        let total = theirs.len();
        while !self.in_done {
            if self.opening_have < OPENING_BYTES {
                let n = self.link.read(driver, &mut self.opening[self.opening_have..]).map_err(lost)?;
                self.opening_have += n;
                if self.opening_have < OPENING_BYTES {
                    return Ok(());
                }
                self.check_opening(operation, total)?;
            }
            let (_, values) = operation.piece(self.in_at, total);
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut theirs[self.in_at..self.in_at + values]);
            if self.in_piece < bytes.len() {
                self.in_piece += self.link.read(driver, &mut bytes[self.in_piece..]).map_err(lost)?;
                if self.in_piece < bytes.len() {
                    return Ok(());
                }
            }
            self.in_at += values;
            (self.in_piece, self.opening_have) = (0, 0);
            self.in_done = self.in_at == total;
        }
        Ok(())
    }

    /// Whether the piece that opens is the one due.
    fn check_opening(&self, operation: Operation, total: usize) -> Result<(), CollectiveError> {
        operation.check(self.rank, &self.opening, self.in_at, total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_another_epoch_operation_or_length_is_not_taken() {
        let due = Operation { epoch: Epoch(5), op: 9 };
        let check = |opening: [u8; OPENING_BYTES]| due.check(Rank(1), &opening, 0, 100);
        assert!(check(due.opening(0, 100)).is_ok());
        for epoch in [Epoch(4), Epoch(6)] {
            let e = check(Operation { epoch, ..due }.opening(0, 100)).expect_err("of another epoch");
            assert!(matches!(e, CollectiveError::WrongEpoch { rank: Rank(1), expected: Epoch(5), .. }), "{e}");
        }
        for opening in [Operation { op: 8, ..due }.opening(0, 100), due.opening(0, 99), due.opening(1, 100)] {
            let e = check(opening).expect_err("another piece");
            assert!(matches!(e, CollectiveError::OutOfStep { .. }), "{e}");
        }
    }
}
