//! What is made of flows that were observed: pure functions over [`Summary`](crate::history::Summary) and
//! [`Policy`](crate::policy::Policy). Commands bring both.

pub mod learn;
pub mod map;
pub mod replay;
pub mod review;
pub mod whatif;
