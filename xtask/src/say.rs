//! Output that never ends the program: the terminal may be gone while there is still something to clean up.

/// Prints a line to standard output, if there still is one.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout().lock(), $($argument)*);
    }};
}

pub(crate) use say;
