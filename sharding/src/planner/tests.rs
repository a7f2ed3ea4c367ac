//! The planner by tables.

use super::*;
