//! The `segd` binary.

fn main() {}
