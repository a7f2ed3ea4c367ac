//! How a GLM model is cut into shards
