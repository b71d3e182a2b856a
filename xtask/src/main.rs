//! segd's own commands for its developers.

fn main() {}
