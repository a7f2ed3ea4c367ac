//! How long an all-reduce of two ranks takes: two processes over QUIC on this host, each a rank.
//!
//! `cargo bench -p shardglm-transport --bench allreduce [-- SPIN_US MTU]`. Prints a line a size: bytes that each rank
//! contributes, then mean, median and 90th percentile in µs as rank 0 sees them, one all-reduce after the other.
#![expect(clippy::print_stdout, reason = "a benchmark's output is its purpose")]

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use protocol::plan::RankAddr;
use protocol::step::GroupHello;
use protocol::{AtomRun, ClusterId, Epoch, Identity, NodeId, Rank, ReductionTree, ReplicaId, Role, WorldSize};
use transport::collective::{GroupConfig, QuicGroup};
use transport::{ClusterCa, Collective, NodeIdentity};

const RANK_ENV: &str = "SHARDGLM_BENCH_RANK";
const DIR_ENV: &str = "SHARDGLM_BENCH_DIR";
/// Bytes each rank contributes, and how often it is measured.
const SIZES: [(usize, usize); 5] =
    [(1 << 10, 4000), (8 << 10, 4000), (16 << 10, 4000), (512 << 10, 300), (4 << 20, 60)];

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    match std::env::var(RANK_ENV) {
        Ok(rank) => run_rank(rank.parse()?),
        Err(_) => run_parent(),
    }
}

fn node(rank: u16) -> Result<NodeId, Failure> {
    Ok(NodeId::new(format!("node-{rank}"))?)
}

fn run_parent() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let ca = ClusterCa::create(ClusterId::from_bytes([1; 16]))?;
    let options: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let mut ranks: Vec<(Child, BufReader<ChildStdout>)> = Vec::new();
    for rank in 0..2 {
        let identity = Identity { cluster: ca.cluster(), role: Role::Node, name: node(rank)? };
        ca.issue(&identity)?.save(&identity_dir(dir.path(), rank))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(&options)
            .env(RANK_ENV, rank.to_string())
            .env(DIR_ENV, dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = BufReader::new(child.stdout.take().ok_or("stdout is piped")?);
        ranks.push((child, out));
    }
    let mut addrs = String::new();
    for (_, out) in &mut ranks {
        out.read_line(&mut addrs)?;
    }
    for (child, _) in &mut ranks {
        child.stdin.take().ok_or("stdin is piped")?.write_all(addrs.as_bytes())?;
    }
    for (mut child, out) in ranks {
        for line in out.lines() {
            println!("{}", line?);
        }
        child.wait()?;
    }
    Ok(())
}

fn identity_dir(dir: &Path, rank: u16) -> PathBuf {
    dir.join(rank.to_string())
}

fn run_rank(rank: u16) -> Result<(), Failure> {
    let dir = PathBuf::from(std::env::var(DIR_ENV)?);
    let mut options = std::env::args().skip(1).filter(|a| a != "--bench");
    let mut config = GroupConfig::default();
    if let Some(us) = options.next() {
        config.spin = Duration::from_micros(us.parse()?);
    }
    if let Some(mtu) = options.next() {
        config.mtu_local = mtu.parse()?;
    }
    let identity = NodeIdentity::load(&identity_dir(&dir, rank))?;
    let any_port = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let mut group = QuicGroup::bind_with(any_port, &identity, config)?;
    println!("{}", group.local_addr());
    let mut peers = Vec::new();
    for (r, line) in (0..).zip(std::io::stdin().lines()) {
        let addr: SocketAddr = line?.parse()?;
        peers.push(RankAddr::new(Rank(r), node(r)?, addr, addr));
    }
    let hello = GroupHello {
        replica: ReplicaId(1),
        rank: Rank(rank),
        world_size: WorldSize::new(2)?,
        model_digest: String::new(),
    };
    group.form(hello, Epoch(1), &peers, Duration::from_secs(10))?;
    let tree = ReductionTree::new(8, &[AtomRun { start: 0, end: 4 }, AtomRun { start: 4, end: 8 }])?;
    for (bytes, times) in SIZES {
        measure(&mut group, &tree, bytes, times)?;
    }
    if rank == 0 {
        group.link_stats().iter().for_each(|s| println!("{s:?}"));
    }
    Ok(())
}

fn measure(group: &mut QuicGroup, tree: &ReductionTree, bytes: usize, times: usize) -> Result<(), Failure> {
    let mine = vec![1.5_f32; bytes / 4];
    let mut out = vec![0.0_f32; bytes / 4];
    let mut taken = Vec::with_capacity(times);
    for _ in 0..times + times / 10 {
        let start = Instant::now();
        group.all_reduce(tree, &mine, &mut out)?;
        taken.push(start.elapsed());
    }
    if group.rank() == Rank(0) {
        let mut taken = taken.split_off(times / 10);
        taken.sort_unstable();
        let mean = taken.iter().sum::<Duration>().as_secs_f64() * 1e6 / times as f64;
        let at = |percent: usize| taken[taken.len() * percent / 100].as_secs_f64() * 1e6;
        println!("{bytes:>8} B  mean {mean:>9.1}  p50 {:>9.1}  p90 {:>9.1} µs", at(50), at(90));
    }
    Ok(())
}
