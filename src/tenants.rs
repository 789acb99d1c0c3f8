//! The tenants that turns run for, for metrics and pauses.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::request::{TurnRequest, WorkspaceId};

/// The label of tenants without one of their own: names come from producers, who
/// could make up a new one for each turn.
pub(crate) const OTHER: &str = "other";
/// The label of turns without a tenant.
pub(crate) const NONE: &str = "none";

/// How many tenants may have a label of their own; each has some 100 series.
pub(crate) const MAX_TENANTS: usize = 50;

/// What names the tenant of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantFrom {
    /// The request's field.
    Request,
    /// The first segment of the workspace.
    Workspace,
}

impl TenantFrom {
    /// As a setting names them.
    pub const WORDS: &'static [&'static str] = &["request", "workspace"];

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        match word {
            "request" => Some(Self::Request),
            "workspace" => Some(Self::Workspace),
            _ => None,
        }
    }
}

/// Where the tenant of a turn is found, and which tenants have a label. The same in all
/// processes with the same settings. Clones share the list.
#[derive(Debug, Clone)]
pub struct Tenants {
    from: TenantFrom,
    listed: Arc<BTreeSet<String>>,
}

impl Default for Tenants {
    fn default() -> Self {
        Self::new(TenantFrom::Request, BTreeSet::new())
    }
}

impl Tenants {
    /// Without any `listed`, metrics have no label for tenants.
    pub fn new(from: TenantFrom, listed: BTreeSet<String>) -> Self {
        let listed = Arc::new(listed);
        Self { from, listed }
    }

    /// Returns `None` if the request names no tenant.
    pub fn of<'a>(&self, request: &'a TurnRequest) -> Option<&'a str> {
        match self.from {
            TenantFrom::Request => request.tenant.as_deref(),
            TenantFrom::Workspace => first_segment(&request.workspace),
        }
    }

    /// Whether any tenant has series of its own.
    pub fn are_labelled(&self) -> bool {
        !self.listed.is_empty()
    }

    /// The label of the tenant's series: its name, `other`, or `none`.
    pub fn label<'a>(&self, tenant: Option<&'a str>) -> &'a str {
        match tenant {
            Some(tenant) if self.listed.contains(tenant) => tenant,
            Some(_) => OTHER,
            None => NONE,
        }
    }

    /// All labels that there can be.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        let listed = self.listed.iter().map(String::as_str);
        let none = (self.from == TenantFrom::Request).then_some(NONE);
        listed.chain([OTHER]).chain(none)
    }
}

fn first_segment(workspace: &WorkspaceId) -> Option<&str> {
    workspace.segments().next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Limits, Properties};

    fn request(tenant: &str) -> TurnRequest {
        let body = format!(
            r#"{{"turn_id":"t","workspace":"acme/website","messages":[{{"role":"user","content":"hi"}}],"tenant":{tenant}}}"#
        );
        TurnRequest::parse(body.as_bytes(), &Limits::accepted(), &Properties::default()).unwrap()
    }

    #[test]
    fn only_listed_tenants_have_a_label_of_their_own() {
        let listed = BTreeSet::from(["acme".to_owned(), "b".to_owned()]);
        let by_request = Tenants::new(TenantFrom::Request, listed.clone());
        let by_workspace = Tenants::new(TenantFrom::Workspace, listed);
        for (tenant, requested, of_workspace) in [
            (r#""b""#, "b", "acme"),
            (r#""unlisted""#, OTHER, "acme"),
            ("null", NONE, "acme"),
        ] {
            let request = request(tenant);
            let label = |tenants: &Tenants| tenants.label(tenants.of(&request)).to_owned();
            assert_eq!(label(&by_request), requested);
            assert_eq!(label(&by_workspace), of_workspace);
        }
        let labels: Vec<&str> = by_request.labels().collect();
        assert_eq!(labels, ["acme", "b", OTHER, NONE]);
        assert_eq!(by_workspace.labels().last(), Some(OTHER));
        assert!(!Tenants::default().are_labelled());
    }
}
