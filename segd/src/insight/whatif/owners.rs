//! Who answers for rules and zones.

use std::collections::HashMap;

use crate::policy::Policy;
use crate::policy::model::Rule;

/// Owners by name, of the new zone files and, for what these do not have any more, of those before.
#[derive(Debug)]
pub struct Owners<'a> {
    policies: Vec<&'a Policy>,
    rules: HashMap<&'a str, &'a Rule>,
    new: &'a Policy,
}

impl<'a> Owners<'a> {
    /// Of these zone files.
    #[must_use]
    pub fn new(new: &'a Policy, before: Option<&'a Policy>) -> Self {
        let policies: Vec<&'a Policy> = [new].into_iter().chain(before).collect();
        let mut rules = HashMap::new();
        for rule in policies.iter().rev().flat_map(|policy| &policy.rules) {
            rules.insert(rule.id.as_str(), rule);
        }
        Self { policies, rules, new }
    }

    /// Who answers for a rule.
    pub(super) fn rule(&self, id: &str) -> Option<String> {
        self.rules.get(id)?.owner.clone()
    }

    /// Whether the new zone files have the rule.
    pub(super) fn has_rule(&self, id: &str) -> bool {
        self.rules.get(id).is_some_and(|rule| self.new.rules.iter().any(|new| std::ptr::eq(new, *rule)))
    }

    /// Who answers for a zone or workload.
    pub(super) fn end(&self, name: &str) -> Option<String> {
        let of_zone = |p: &&'a Policy| p.zones.get(name).and_then(|zone| zone.owner.clone());
        let of_workload = |p: &&'a Policy| p.workloads.get(name).and_then(|workload| workload.owner.clone());
        self.policies.iter().find_map(|policy| of_zone(policy).or_else(|| of_workload(policy)))
    }
}
