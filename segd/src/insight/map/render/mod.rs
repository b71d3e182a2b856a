//! The map in each format.

mod amount;
mod dot;
mod html;
mod json;
mod mermaid;
mod svg;

pub use dot::dot;
pub use html::html;
pub use json::json;
pub use mermaid::mermaid;
pub use svg::svg;
