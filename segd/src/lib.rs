//! segd: zone-to-zone allowlists on every Linux host, enforced in the kernel.

pub mod config;
pub mod datapath;
pub mod policy;
