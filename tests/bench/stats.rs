//! What is printed of many measurements.

/// Sorted, and never empty.
#[derive(Debug, Clone)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// `None` without measurements.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        (!values.is_empty()).then_some(Self(values))
    }

    pub fn median(&self) -> f64 {
        self.percentile(50.0)
    }

    pub fn max(&self) -> f64 {
        self.percentile(100.0)
    }

    /// The smallest value that so many of a hundred don't exceed (nearest rank).
    pub fn percentile(&self, percent: f64) -> f64 {
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values_by_their_rank() {
        let sample = Sample::of((1..=200).rev().map(f64::from)).unwrap();
        assert_eq!(sample.median(), 100.0);
        assert_eq!(sample.percentile(99.0), 198.0);
        assert_eq!(sample.percentile(99.1), 199.0);
        assert_eq!(sample.percentile(0.0), 1.0);
        assert_eq!(sample.max(), 200.0);
    }

    #[test]
    fn statistics_of_one_value_and_of_no_values() {
        let one = Sample::of([7.0]).unwrap();
        assert_eq!(
            (one.median(), one.percentile(99.0), one.max()),
            (7.0, 7.0, 7.0)
        );
        assert!(Sample::of([]).is_none());
    }
}
