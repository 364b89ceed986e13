//! What a range does to each dimension: which windows it must hold whole, and what happens to windows that it holds in part.
//!
//! In: the replay's logic, and the logics that count at present. Out: for each dimension, its base, which is the granularity of which the
//! range must have whole windows; the longer windows that get the difference of their part in the range, summed from base windows; and the
//! windows that are left unchanged unless they are wholly in range, because the existing cells do not show what to add to them. Pure.

use std::collections::BTreeMap;

use crate::job::Logic;
use crate::model::Granularity;

/// A logic that counts at present.
pub struct Present {
    /// The logic.
    pub logic: Logic,
    /// If it is a replay's logic: what it counts only in windows that are wholly in its range.
    pub whole_only: Vec<(Granularity, String)>,
}

/// What a range does to each dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeShape {
    /// By name: the dimensions of the replay's logic and of the logics that count at present.
    pub dimensions: BTreeMap<String, DimensionShape>,
}

/// What a range does to a dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DimensionShape {
    /// The granularity of which the range must have whole windows.
    pub base: Granularity,
    /// Granularities whose windows get the difference of the part that is in the range.
    pub parts: Vec<PartOf>,
    /// Granularities whose windows are counted only if they are wholly in the range.
    pub whole_only: Vec<Granularity>,
}

/// A granularity whose windows get the difference of their part in the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartOf {
    /// The granularity.
    pub granularity: Granularity,
    /// Whether the replay's logic counts it; if not, the old count of the part is subtracted.
    pub is_counted: bool,
}

fn counted<'a>(logic: &'a Logic, dimension: &str) -> Option<&'a [Granularity]> {
    logic.dimensions.iter().find(|known| known.name == dimension).map(|known| known.granularities.as_slice())
}

impl RangeShape {
    /// The shape of replays with `ours` where the logics in `present` count at present.
    pub fn new(ours: &Logic, present: &[Present]) -> RangeShape {
        let logics = present.iter().map(|present| &present.logic).chain([ours]);
        let names = logics.flat_map(|logic| logic.dimensions.iter().map(|dimension| dimension.name.clone()));
        let dimensions = names.map(|name| (name.clone(), DimensionShape::new(&name, ours, present)));
        RangeShape { dimensions: dimensions.collect() }
    }

    /// The longest base: the range must consist of whole windows of it.
    pub fn base(&self) -> Granularity {
        self.dimensions.values().map(|shape| shape.base).max().unwrap_or(Granularity::Minute)
    }

    /// The granularities that the replay's logic counts only in windows that are wholly in the range, with their dimensions.
    pub fn whole_only(&self) -> Vec<(Granularity, String)> {
        let of = |(name, shape): (&String, &DimensionShape)| {
            shape.whole_only.iter().map(|granularity| (*granularity, name.clone())).collect::<Vec<_>>()
        };
        self.dimensions.iter().flat_map(of).collect()
    }
}

impl DimensionShape {
    fn new(name: &str, ours: &Logic, present: &[Present]) -> DimensionShape {
        let theirs: Vec<_> = (present.iter())
            .filter_map(|present| Some((counted(&present.logic, name)?, &present.whole_only)))
            .collect();
        let new = counted(ours, name);
        // The cells of all these granularities are sums over the same rows.
        let by_all = |granularity: Granularity| {
            !theirs.is_empty()
                && theirs.iter().all(|(counted, whole_only)| {
                    counted.contains(&granularity)
                        && !whole_only.iter().any(|(of, dimension)| *of == granularity && dimension == name)
                })
        };
        let all = || theirs.iter().map(|(counted, _)| *counted).chain(new);
        let by_us_too =
            |granularity: &Granularity| by_all(*granularity) && new.is_none_or(|counted| counted.contains(granularity));
        let common = Granularity::ALL[..=Granularity::Day as usize].iter().copied().find(by_us_too);
        // Windows of up to a day nest in one another.
        let base = common
            .unwrap_or_else(|| all().filter_map(|counted| counted.first().copied()).max().unwrap_or(Granularity::Day));
        let mut shape = DimensionShape { base, parts: Vec::new(), whole_only: Vec::new() };
        for granularity in Granularity::ALL {
            let is_counted = new.is_some_and(|counted| counted.contains(&granularity));
            if !all().any(|counted| counted.contains(&granularity)) || (common.is_some() && granularity == base) {
                continue;
            }
            // Live may count rows with the new logic already, and base windows include these rows. If the new logic counts the dimension
            // but not this granularity, its longer windows do not include them, so base windows do not show what to subtract.
            let can_be_told = is_counted || new.is_none();
            if common.is_some() && granularity > base && by_all(granularity) && can_be_told {
                shape.parts.push(PartOf { granularity, is_counted });
            } else {
                shape.whole_only.push(granularity);
            }
        }
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Job;
    use Granularity::{Day, Hour, Minute, Month, Week, Year};

    /// A logic in which the dimension `total` is always counted by day.
    fn logic(dimensions: &[(&str, &[Granularity])]) -> Logic {
        let mut text = "name = \"j\"\n[source]\ntopics = [\"t\"]\n[source.kafka]\n\"bootstrap.servers\" = \"b\"\n[tables]\n\
             url = \"memory://\"\n[event]\nformat = \"json\"\ncustomer = { pointer = \"/c\" }\nevent_time = { pointer = \"/t\" }\n\
             [event.fields.a]\npointer = \"/a\"\n[dimensions.total]\ngranularities = [\"day\"]\n"
            .to_owned();
        for (name, granularities) in dimensions {
            let names: Vec<_> = granularities.iter().map(|granularity| format!("\"{granularity}\"")).collect();
            text += &format!("[dimensions.{name}]\nfield = \"a\"\ngranularities = [{}]\n", names.join(", "));
        }
        Job::parse(&text, "job.toml", &|_| None).expect("a job").logic
    }

    fn shape(ours: &[(&str, &[Granularity])], theirs: &[&[(&str, &[Granularity])]]) -> RangeShape {
        let present: Vec<_> =
            theirs.iter().map(|theirs| Present { logic: logic(theirs), whole_only: Vec::new() }).collect();
        RangeShape::new(&logic(ours), &present)
    }

    fn parts(shape: &DimensionShape) -> Vec<(Granularity, bool)> {
        shape.parts.iter().map(|part| (part.granularity, part.is_counted)).collect()
    }

    #[test]
    fn longer_windows_get_the_difference_of_their_part() {
        let same: &[(&str, &[Granularity])] = &[("page", &[Hour, Day, Month])];
        let shape = shape(same, &[same]);
        let page = &shape.dimensions["page"];
        assert_eq!((page.base, parts(page), &page.whole_only), (Hour, vec![(Day, true), (Month, true)], &vec![]));
        assert_eq!((shape.base(), shape.dimensions["total"].base), (Day, Day));
    }

    #[test]
    fn what_was_not_counted_before_is_counted_in_whole_windows() {
        let shape = shape(&[("page", &[Minute, Day, Year]), ("new", &[Hour, Week])], &[&[("page", &[Day, Month])]]);
        let (page, new) = (&shape.dimensions["page"], &shape.dimensions["new"]);
        assert_eq!((page.base, parts(page)), (Day, vec![]));
        assert_eq!(page.whole_only, [Minute, Month, Year]);
        assert_eq!((new.base, parts(new), &new.whole_only), (Hour, vec![], &vec![Hour, Week]));
        assert_eq!(shape.whole_only().len(), 5);
    }

    #[test]
    fn logics_that_differ_leave_no_part_to_be_told() {
        // Months hold only the rows of the second logic, days hold those of both.
        let shape = shape(&[("page", &[Day, Month])], &[&[("page", &[Day])], &[("page", &[Day, Month])]]);
        let page = &shape.dimensions["page"];
        assert_eq!((page.base, parts(page), &page.whole_only), (Day, vec![], &vec![Month]));
        // No granularity in common: only whole windows.
        let shape = super::tests::shape(&[("page", &[Day, Month])], &[&[("page", &[Hour, Month])]]);
        let page = &shape.dimensions["page"];
        assert_eq!((page.base, parts(page)), (Day, vec![]));
        assert_eq!(page.whole_only, [Hour, Day, Month]);
        // A dimension that is gone is subtracted.
        let shape = super::tests::shape(&[], &[&[("page", &[Hour, Month])]]);
        assert_eq!(parts(&shape.dimensions["page"]), [(Month, false)]);
        // What a replay counted only in whole windows.
        let (a, whole_only) = (logic(&[("page", &[Hour, Month])]), vec![(Month, "page".to_owned())]);
        let shape = RangeShape::new(&a, &[Present { logic: a.clone(), whole_only }]);
        assert_eq!(shape.dimensions["page"].whole_only, [Month]);
    }
}
