//! Closed sets of values that label metrics and stand in reports, each used by the
//! module that decides about it and by `metrics`, which is below all of them.

mod condition;
mod dismissal;
mod lack;
mod offer;
mod rate_limit;

pub use condition::{Condition, ConditionReport};
pub use dismissal::DismissReason;
pub use lack::Lack;
pub use offer::WhyShared;
pub use rate_limit::{RateLimit, RateLimitWindow};
