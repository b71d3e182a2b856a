//! segd: zone-to-zone allowlists on every Linux host, enforced in the kernel.

pub mod agent;
pub mod commands;
pub mod config;
pub mod control;
pub mod datapath;
pub mod history;
mod http;
pub mod insight;
pub mod names;
mod pages;
pub mod policy;
pub mod rollout;
mod state;
pub mod telemetry;
