//! The wire, byte by byte: one sample of every message against `golden/v1.txt`. A difference means that a member of
//! the previous version would not understand this one: raise `WIRE_VERSION`, or undo the change.
//!
//! `UPDATE_GOLDEN=1 cargo test -p shardglm-protocol --test golden_bytes` writes the file anew.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use protocol::frame::{Ping, Refusal, RefusalCode};
use protocol::generate::{
    Choice, EndChoice, FinishReason, GenerateEvent, GenerateRequest, Grammar, Priority, SamplingParams, TokenLogprobs,
    TokenOutput,
};
use protocol::journal::{AnswerFormat, JournalEntry, JournalRequest, JournalResponse, Taken, TakenIds};
use protocol::lease::{
    GroupAddrs, Inventory, NodeOrders, NodeReport, RankGoal, RankOrder, StoredOrders, WorkerPhase, WorkerStatus,
};
use protocol::picture::{BeginPicture, Picture, PicturePlace, PictureSize, PictureWork, SeqPicture};
use protocol::plan::RankAddr;
use protocol::raft::{RaftCall, RaftRequest, RaftResponse};
use protocol::stats::EngineStats;
use protocol::step::{BlockCopy, GroupHello, LogitsWanted, StepPlan, StepSeq};
use protocol::worker::{EngineLoad, FromWorker, Proof, ToWorker, WorkerSpec};
use protocol::{
    AtomRun, ByteBudget, ClusterId, DeploymentSpec, Dtype, Epoch, Frame, FrameHeader, Generation, Message, ModelRecord,
    NodeId, PictureId, PictureLimits, Plan, Rank, RankCut, RankPlan, ReplicaId, RequestId, SeqId, Span, Term,
    WorldSize,
};

fn node() -> NodeId {
    NodeId::new("node-1").expect("the sample is well-formed")
}

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn rank_addr() -> RankAddr {
    RankAddr::new(Rank(0), node(), addr(7001), addr(7002))
}

fn deployment() -> DeploymentSpec {
    DeploymentSpec {
        name: "default".to_owned(),
        generation: Generation(2),
        model: ModelRecord {
            name: "tiny".to_owned(),
            digest: "00ff".repeat(16),
            dir: "/srv/models/tiny".to_owned(),
            config_json: "{}".to_owned(),
            stored_f32: false,
            weight_bytes: 1234,
        },
        served_names: vec!["tiny".to_owned(), "alias".to_owned()],
        tp: WorldSize::ONE,
        replicas: 1,
        dtype: Dtype::Bf16,
        threads_per_worker: 2,
        kv_tokens: Some(4096),
        context_tokens: None,
        max_seqs: 8,
        step_tokens: 512,
        pictures: Some(PictureLimits { pictures_max: 10, pixels_max: 5_000_000 }),
    }
}

fn plan() -> Plan {
    let cut = RankCut {
        head_atoms: AtomRun { start: 0, end: 8 },
        heads: Span { start: 0, end: 8 },
        kv_heads: Span { start: 0, end: 2 },
        mlp_atoms: AtomRun { start: 0, end: 8 },
        mlp_cols: Span { start: 0, end: 352 },
        vocab_rows: Span { start: 0, end: 2048 },
    };
    let budget = ByteBudget { weights: 1, kv_cache: 2, activations: 3 };
    Plan {
        world_size: WorldSize::ONE,
        kv_tokens: 4096,
        context_tokens: 2048,
        ranks: vec![RankPlan { rank: Rank(0), node: node(), cut, budget }],
    }
}

fn place() -> PicturePlace {
    PicturePlace { at: 1, size: PictureSize { height: 28, width: 56 } }
}

fn generate() -> GenerateRequest {
    GenerateRequest {
        request_id: RequestId::from_bytes([3; 16]),
        replica: ReplicaId(4),
        prompt_ids: vec![1, 2, 3],
        pictures: vec![place()],
        choices: vec![Choice { index: 1, resume: vec![9] }],
        sampling: SamplingParams {
            stop_token_ids: vec![7],
            logprobs: Some(2),
            grammar: Some(Grammar::Regex("[ab]+".to_owned())),
            ..SamplingParams::greedy(16)
        },
        priority: Priority::Low,
        cache_salt: "tenant".to_owned(),
        deadline_ms: 30_000,
    }
}

/// Checks that the sample survives its own bytes, and writes one line for it.
fn line<M: Message + PartialEq + std::fmt::Debug>(out: &mut String, name: &str, message: M) {
    let bytes = Frame::bytes_of(Epoch(5), &message).expect("the sample is well-formed");
    let header =
        FrameHeader::decode(bytes[..24].try_into().expect("the sample is well-formed")).expect("a header of ours");
    let mut body = rkyv::util::AlignedVec::new();
    body.extend_from_slice(&bytes[24..]);
    assert_eq!(
        Frame { kind: header.kind, epoch: header.epoch, body }.read::<M>().expect("the sample is well-formed"),
        message,
        "{name}"
    );
    write!(out, "{name} ").expect("the sample is well-formed");
    bytes.iter().for_each(|b| write!(out, "{b:02x}").expect("the sample is well-formed"));
    out.push('\n');
}

fn samples() -> String {
    let mut out = String::new();
    let inventory = Inventory { cores: 2, memory_bytes: 1 << 30, version: "0.1.0".to_owned() };
    let proof = Proof { age_ms: 6, good_ms: 7 };
    let status = WorkerStatus {
        replica: ReplicaId(4),
        epoch: Epoch(5),
        rank: Rank(0),
        pid: 77,
        phase: WorkerPhase::Loaded { addr: rank_addr(), bytes_read: 99 },
        bytes_read: 99,
        load: Some(EngineLoad { running: 1, waiting: 2, kv_blocks_used: 3, kv_blocks_total: 4, steps: 5 }),
        stats: Some(Box::new(EngineStats { preemptions: 1, ..EngineStats::default() })),
        proof: Some(proof),
    };
    let order = RankOrder {
        replica: ReplicaId(4),
        epoch: Epoch(5),
        rank: Rank(0),
        deployment: deployment(),
        plan: plan(),
        goal: RankGoal::Connect { peers: vec![rank_addr()] },
    };
    let spec = WorkerSpec {
        node: node(),
        replica: ReplicaId(4),
        epoch: Epoch(5),
        rank: Rank(0),
        deployment: deployment(),
        plan: plan(),
        listen_ip: "127.0.0.1".to_owned(),
        addr: Some(rank_addr()),
        identity_dir: "/var/lib/shardglm/identity".to_owned(),
    };
    let token = TokenOutput { id: 8, logprobs: Some(TokenLogprobs { chosen: -0.5, top: vec![(8, -0.5)] }) };
    let seq = StepSeq {
        seq: SeqId(6),
        start: 16,
        tokens: vec![1, 2],
        blocks: vec![0, 3],
        pictures: vec![SeqPicture { picture: PictureId(7), place: place() }],
        logits: LogitsWanted::Best { k: 3 },
    };

    line(&mut out, "Ping", Ping { nonce: 1 });
    line(&mut out, "Refusal", Refusal { code: RefusalCode::WrongEpoch, detail: "epoch 4, expected 5".to_owned() });
    let cluster = ClusterId::from_bytes([1; 16]);
    line(&mut out, "RaftRequest", RaftRequest { cluster, call: RaftCall::Vote, body: vec![1, 2] });
    line(&mut out, "RaftResponse", RaftResponse { body: vec![3] });
    let report = NodeReport { node: node(), incarnation: 1, inventory, workers: vec![status], leaving: false };
    line(&mut out, "NodeReport", report);
    let coordinators = vec!["10.0.0.1:7000".to_owned()];
    let orders = NodeOrders { term: Term(3), lease_ms: 3000, heartbeat_ms: 500, ranks: vec![order], coordinators };
    line(&mut out, "NodeOrders", orders.clone());
    let groups = vec![GroupAddrs { replica: ReplicaId(4), epoch: Epoch(5), ranks: vec![rank_addr()] }];
    let fences = vec![(ReplicaId(4), Epoch(5))];
    line(&mut out, "StoredOrders", StoredOrders { node: node(), orders, groups, fences });
    line(&mut out, "GenerateRequest", generate());
    line(&mut out, "Picture", Picture { rgb: vec![1, 2, 3] });
    line(&mut out, "EndChoice", EndChoice { index: 1 });
    line(&mut out, "GenerateEvent.Started", GenerateEvent::Started { cached_tokens: 16 });
    let logprobs = TokenLogprobs { chosen: -0.5, top: vec![(8, -0.5)] };
    line(&mut out, "GenerateEvent.Prompt", GenerateEvent::Prompt(vec![logprobs]));
    line(&mut out, "GenerateEvent.Tokens", GenerateEvent::Tokens { choice: 1, tokens: vec![token] });
    let finished = GenerateEvent::Finished { choice: 1, reason: FinishReason::Length };
    line(&mut out, "GenerateEvent.Finished", finished);
    line(&mut out, "GenerateEvent.Failed", GenerateEvent::Failed { reason: "rank 1 lost".to_owned(), retryable: true });
    let hello = GroupHello {
        replica: ReplicaId(4),
        rank: Rank(1),
        world_size: WorldSize::ONE,
        model_digest: "00ff".to_owned(),
    };
    line(&mut out, "GroupHello", hello);
    let size = PictureSize { height: 1, width: 2 };
    let begin = BeginPicture { picture: PictureId(8), owner: Rank(1), size, rgb: vec![1, 2, 3, 4, 5, 6] };
    let (forget, finish) = (vec![PictureId(5)], vec![PictureId(7)]);
    let pictures = PictureWork { forget, begin: Some(begin), blocks: 24, finish };
    line(
        &mut out,
        "StepPlan",
        StepPlan { step: 9, within_ms: 4000, copies: vec![BlockCopy { from: 3, to: 4 }], pictures, seqs: vec![seq] },
    );
    line(&mut out, "ToWorker.Start", ToWorker::Start(Box::new(spec)));
    line(&mut out, "ToWorker.Drain", ToWorker::Drain { deadline_ms: 1000 });
    let loading = WorkerPhase::Loading { bytes_read: 1, bytes_total: 2 };
    line(&mut out, "FromWorker.Phase", FromWorker::Phase(loading));
    let alive = FromWorker::Alive { load: EngineLoad::default(), stats: Some(Box::default()), proof: Some(proof) };
    line(&mut out, "FromWorker.Alive", alive);
    journal(&mut out);
    out
}

fn journal(out: &mut String) {
    let id = RequestId::from_bytes([7; 16]);
    let entry = JournalEntry {
        id,
        version: 3,
        format: AnswerFormat::Chat,
        principal: String::new(),
        body: b"{}".to_vec(),
        priority: Priority::High,
        timeout_ms: 600_000,
        left_ms: 599_000,
        created: 1_700_000_000,
        seed: 42,
        digest: "00ff".to_owned(),
        dtype: Dtype::Bf16,
        prompts: vec![vec![1, 2]],
        pictures: vec![[9; 32]],
        taken: vec![vec![3], vec![]],
        cached: vec![Some(1)],
    };
    let choices = vec![TakenIds { choice: 1, from: 0, ids: vec![4, 5] }];
    let taken = Taken { id, version: 3, cached: vec![Some(1)], choices, ended: true };
    line(out, "JournalRequest.Begin", JournalRequest::Begin(Box::new(entry.clone())));
    line(out, "JournalRequest.Take", JournalRequest::Take(vec![taken]));
    line(out, "JournalRequest.Claim", JournalRequest::Claim { id, principal: "key-1".to_owned() });
    line(out, "JournalResponse.Kept", JournalResponse::Kept);
    line(out, "JournalResponse.Full", JournalResponse::Full);
    line(out, "JournalResponse.Unknown", JournalResponse::Unknown(vec![id]));
    line(out, "JournalResponse.Found", JournalResponse::Found(Some(Box::new(entry))));
}

#[test]
fn every_message_has_its_golden_bytes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1.txt");
    let found = samples();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).expect("the sample is well-formed");
    }
    let golden = std::fs::read_to_string(&path).expect("the sample is well-formed");
    for (found, golden) in found.lines().zip(golden.lines()) {
        assert_eq!(found, golden);
    }
    assert_eq!(found.lines().count(), golden.lines().count());
}
