//! Node agent, engine and worker
