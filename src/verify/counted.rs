//! What a logic counts, as far as the recount needs it: which dimensions in which windows, and what is late.
//!
//! In: a logic. Out: a [`Counted`]. Pure.

use super::window::WINDOWS;
use crate::job::Logic;

/// What a logic counts, as far as the recount needs it.
pub(super) struct Counted {
    /// In the order of the logic, which is also the order of the decoder's values.
    pub(super) dimensions: Vec<CountedDimension>,
    /// Grace of minute, hour and day.
    pub(super) graces_us: [i64; 3],
}

/// A dimension of a logic.
pub(super) struct CountedDimension {
    pub(super) name: String,
    /// In which of [`WINDOWS`] it is counted.
    pub(super) windows: [bool; WINDOWS.len()],
}

impl Counted {
    pub(super) fn new(logic: &Logic) -> Counted {
        let dimensions = (logic.dimensions.iter())
            .map(|dimension| {
                let is_counted =
                    |name: &str| dimension.granularities.iter().any(|granularity| granularity.name() == name);
                CountedDimension {
                    name: dimension.name.clone(),
                    windows: WINDOWS.map(|window| is_counted(window.name)),
                }
            })
            .collect();
        Counted { dimensions, graces_us: logic.graces_us }
    }
}
