//! Which clients of a policy a caller could be, by its ids: a decision looks at these alone,
//! however many others there are.

use std::collections::HashMap;

use crate::selector::{Caller, Namespace, Selector, groups_of};

/// Clients by the ids of one of their selectors, which all must match.
#[derive(Debug, Default)]
pub(crate) struct ClientIndex {
    by_uid: HashMap<u32, Vec<u32>>,
    by_gid: HashMap<u32, Vec<u32>>,
    /// The clients that are known by groups alone.
    of_groups: Vec<u32>,
    /// All of them.
    all: Vec<u32>,
    /// Some selector is by group.
    pub(crate) reads_groups: bool,
}

impl ClientIndex {
    /// An index of clients by their selectors.
    pub(crate) fn new<'s>(clients: impl Iterator<Item = &'s [Selector]>) -> Self {
        let mut index = Self::default();
        for (number, selectors) in (0_u32..).zip(clients) {
            index.all.push(number);
            let by_group = |selector: &Selector| matches!(selector, Selector::Gid(_));
            index.reads_groups |= selectors.iter().any(by_group);
            let uids = selectors.iter().find_map(|selector| match selector {
                Selector::Uid(ids) => Some(ids),
                Selector::Gid(_) => None,
            });
            let gids = selectors.iter().find_map(|selector| match selector {
                Selector::Gid(ids) => Some(ids),
                Selector::Uid(_) => None,
            });
            match (uids, gids) {
                (Some(ids), _) => enter(&mut index.by_uid, ids, number),
                (None, Some(ids)) => {
                    enter(&mut index.by_gid, ids, number);
                    index.of_groups.push(number);
                }
                // By no id: nobody's.
                (None, None) => {}
            }
        }
        index
    }

    /// The numbers of all clients that a selector could make of `caller`, or that a denial
    /// could be meant for; in no order, some more than once, and others among them.
    pub(crate) fn candidates<'i, 'c>(
        &'i self,
        caller: &Caller<'c>,
    ) -> impl Iterator<Item = u32> + use<'i, 'c> {
        let of_uid = |uid| of(&self.by_uid, uid);
        let (owner, groups, all): (_, &[u32], &[u32]) = match caller.namespace {
            Namespace::Host | Namespace::OfRoot => (None, &[], &[]),
            Namespace::Of(owner) => (Some(owner), &self.of_groups, &[]),
            Namespace::Unknown => (None, &[], &self.all),
        };
        // Somebody's groups may be many.
        let gids = groups_of(caller).filter(|_| !self.by_gid.is_empty());
        let lists = std::iter::once(of_uid(caller.uid))
            .chain(owner.map(of_uid))
            .chain(gids.map(|gid| of(&self.by_gid, gid)))
            .chain([groups, all]);
        lists.flatten().copied()
    }
}

fn enter(index: &mut HashMap<u32, Vec<u32>>, ids: &[u32], client: u32) {
    for &id in ids {
        index.entry(id).or_default().push(client);
    }
}

fn of(index: &HashMap<u32, Vec<u32>>, id: u32) -> &[u32] {
    index.get(&id).map(Vec::as_slice).unwrap_or_default()
}
