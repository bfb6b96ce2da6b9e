//! Target groups that say by their tags what they follow.

pub mod finder;
