//! What a logic counts, as far as the recount needs to know: which dimensions in which windows, and what is late.

use super::window::WINDOWS;
use crate::job::Logic;

/// What a logic counts, as far as the recount needs to know.
pub(super) struct Counted {
    /// In the logic's order, which is that of the decoder's values.
    pub(super) dimensions: Vec<CountedDimension>,
    /// Of minute, hour and day.
    pub(super) graces_us: [i64; 3],
}

/// A dimension of it.
pub(super) struct CountedDimension {
    pub(super) name: String,
    /// Which of [`WINDOWS`] it is counted in.
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
