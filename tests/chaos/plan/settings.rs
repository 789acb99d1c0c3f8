//! What one process has otherwise than the others: no promise rests on settings
//! that are the same everywhere.

use super::{Plan, SLOTS_ON_HOST, random};

/// Up to that many more turns than there are slots are looked at.
const MORE: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnSettings {
    pub slots: usize,
    /// At least as many as there are slots in all: the pool must be able to be
    /// busy.
    pub backlog: usize,
    pub warm: usize,
    pub idle_ttl_s: u32,
}

impl Plan {
    /// Of the process of that number, in a pool of `processes` with about
    /// `slots` each.
    pub fn settings(self, number: usize, processes: usize, slots: usize) -> OwnSettings {
        if self.0.host_fault.is_some() {
            return OwnSettings {
                slots: SLOTS_ON_HOST,
                backlog: 10_000,
                warm: 4,
                idle_ttl_s: 3,
            };
        }
        let mut random = random(self.0.seed, "settings", number);
        let most_slots = 2 * slots - 1;
        let all_slots = processes * most_slots;
        OwnSettings {
            slots: random.usize(1..=most_slots),
            backlog: match random.u8(0..4) {
                0 => 10_000,
                _ => random.usize(all_slots..=all_slots + MORE),
            },
            warm: random.usize(0..=4),
            idle_ttl_s: random.u32(1..=3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Shape;
    use super::*;

    #[test]
    fn processes_differ_and_can_keep_all_slots_busy() {
        let plan = Plan(Shape {
            seed: 7,
            workspaces: 24,
            cluster: false,
            short: false,
            sabotage: None,
            host_fault: None,
            disks: 0,
        });
        let all: Vec<_> = (0..50).map(|number| plan.settings(number, 5, 3)).collect();
        assert_eq!(all[3], plan.settings(3, 5, 3));
        let slots: std::collections::BTreeSet<_> = all.iter().map(|one| one.slots).collect();
        assert_eq!(slots, (1..=5).collect());
        assert!(all.iter().any(|one| one.backlog == 10_000));
        assert!(all.iter().any(|one| one.backlog < 50));
        assert!(all.iter().all(|one| one.backlog >= 25));
    }
}
