//! Circles of imports between the modules of one directory.

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::{Segments, Sources, Target};

/// The neighbours that a module imports, and where.
type Graph = BTreeMap<String, BTreeMap<String, String>>;

/// Every import that is part of a circle. A module stands for all beneath it; what
/// it and its own children have of each other is no circle.
pub(crate) fn circles(directory: &str, sources: &Sources) -> Vec<String> {
    let mut graphs: BTreeMap<Segments, Graph> = BTreeMap::new();
    for import in sources.imports() {
        let Target::Ours { module, .. } = &import.target else {
            continue;
        };
        let both = import.module.iter().zip(module);
        let shared = both.take_while(|(from, to)| from == to).count();
        if let (Some(from), Some(to)) = (import.module.get(shared), module.get(shared)) {
            let parent = import.module[..shared].to_vec();
            let imports = graphs.entry(parent).or_default().entry(from.clone());
            let place = format!("{directory}/{}:{}", import.file, import.line);
            imports.or_default().entry(to.clone()).or_insert(place);
        }
    }
    let mut breaches = Vec::new();
    for graph in graphs.values() {
        for (from, imports) in graph {
            for (to, place) in imports {
                if reached(graph, to).contains(from.as_str()) {
                    breaches.push(format!("{place}: {from} imports {to}, in a circle"));
                }
            }
        }
    }
    breaches
}

fn reached<'g>(graph: &'g Graph, start: &'g str) -> BTreeSet<&'g str> {
    let mut reached = BTreeSet::from([start]);
    let mut next = vec![start];
    while let Some(module) = next.pop() {
        let imports = graph.get(module).into_iter().flat_map(BTreeMap::keys);
        next.extend(imports.map(String::as_str).filter(|to| reached.insert(to)));
    }
    reached
}
