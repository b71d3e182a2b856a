//! What is printed for `cargo xtask bench` to read.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;

use crate::estate::Size;

/// One measured figure. Everything but the value says of what it is.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample<'a> {
    /// The part of the bench.
    pub(crate) part: &'a str,
    /// Who or what was measured; empty where the part says it.
    pub(crate) variant: &'a str,
    /// The policy's size; 0: none, or the example estate.
    pub(crate) prefixes: usize,
    /// As `prefixes`.
    pub(crate) rules: usize,
    /// The load; empty: none.
    pub(crate) load: &'a str,
    /// From 1.
    pub(crate) round: u32,
    pub(crate) metric: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) value: f64,
}

impl<'a> Sample<'a> {
    pub(crate) fn of(part: &'a str, variant: &'a str, round: u32) -> Self {
        Self { part, variant, prefixes: 0, rules: 0, load: "", round, metric: "", unit: "", value: 0.0 }
    }

    pub(crate) fn at(self, size: Size) -> Self {
        Self { prefixes: size.prefixes, rules: size.rules, ..self }
    }

    pub(crate) fn load(self, load: &'a str) -> Self {
        Self { load, ..self }
    }

    /// Prints one figure of it.
    pub(crate) fn tell(&self, metric: &str, unit: &str, value: f64) -> Result<()> {
        let line = serde_json::to_string(&Sample { metric, unit, value, ..self.clone() })?;
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}")?;
        Ok(stdout.flush()?)
    }
}

/// Says what is being done.
pub(crate) fn progress(text: &str) {
    eprintln!("{text}");
}
