//! What several tests share.

// Each test is a crate of its own, and uses only a part of this.
#![allow(dead_code)]

pub(crate) mod contract;
pub(crate) mod faulty;
pub(crate) mod former;
pub(crate) mod live;
pub(crate) mod processes;
pub(crate) mod rival;
pub(crate) mod tables;
