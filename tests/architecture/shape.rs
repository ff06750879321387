//! What the code looks like: sizes, names and first words.

use std::collections::BTreeMap;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, Lit, Meta, Pat};

use crate::sources::{Source, Sources};

const MAX_LINES: usize = 450;
const MAX_FIELDS: usize = 12;

/// A struct that derives one of these is as large as what it describes.
const DESCRIPTIONS: [&str; 4] = ["Args", "Deserialize", "Parser", "Serialize"];

/// What derives one of these has its documentation as its help.
const HELP: [&str; 4] = ["Args", "Parser", "Subcommand", "ValueEnum"];

/// Types that several modules may have, each its own.
const SHARED_NAMES: [&str; 2] = ["Error", "State"];

/// First words that send the reader back to the item's name.
const RIDDLES: [&str; 6] = ["It", "Others", "The same", "What", "Who", "Whose"];

/// The lines that a room's head has after its first sentence.
const HEAD: [&str; 3] = ["Runs in:", "Touches:", "Imported by:"];

pub(crate) fn long_files(directory: &str, sources: &Sources) -> Vec<String> {
    let files = sources.files.iter();
    let long = files.filter(|(_, source)| source.lines > MAX_LINES);
    let told = long.map(|(file, source)| {
        let lines = source.lines;
        format!("{directory}/{file}:1: {lines} lines, more than {MAX_LINES}")
    });
    told.collect()
}

/// What `visitor` finds in each file, with its line.
fn each<V>(
    directory: &str,
    sources: &Sources,
    found: impl Fn(V) -> Vec<(usize, String)>,
) -> Vec<String>
where
    V: for<'ast> Visit<'ast> + Default,
{
    let files = sources.files.iter().flat_map(|(file, source)| {
        let mut visitor = V::default();
        visitor.visit_file(&source.syntax);
        let found = found(visitor).into_iter();
        found.map(move |(line, what)| format!("{directory}/{file}:{line}: {what}"))
    });
    files.collect()
}

pub(crate) fn large_structs(directory: &str, sources: &Sources) -> Vec<String> {
    each(directory, sources, |structs: Structs| structs.large)
}

#[derive(Default)]
struct Structs {
    large: Vec<(usize, String)>,
}

impl<'ast> Visit<'ast> for Structs {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        let (name, fields) = (&item.ident, item.fields.len());
        if fields > MAX_FIELDS && !derives(&item.attrs, &DESCRIPTIONS) {
            let what = format!("{name} has {fields} fields, more than {MAX_FIELDS}");
            self.large.push((name.span().start().line, what));
        }
        visit::visit_item_struct(self, item);
    }
}

/// Whether one of `traits` is derived.
fn derives(attributes: &[Attribute], traits: &[&str]) -> bool {
    let mut found = false;
    for attribute in attributes.iter().filter(|a| a.path().is_ident("derive")) {
        let derived = attribute.parse_nested_meta(|meta| {
            let name = meta.path.segments.last().unwrap().ident.to_string();
            found |= traits.contains(&name.as_str());
            Ok(())
        });
        derived.unwrap();
    }
    found
}

/// Types whose name another type has.
pub(crate) fn repeated_types(directory: &str, sources: &Sources) -> Vec<String> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, source) in &sources.files {
        let mut types = Types::default();
        types.visit_file(&source.syntax);
        for (line, name) in types.names {
            let place = format!("{directory}/{file}:{line}");
            places.entry(name).or_default().push(place);
        }
    }
    places.retain(|name, places| places.len() > 1 && !SHARED_NAMES.contains(&name.as_str()));
    let told = places.into_iter().flat_map(|(name, places)| {
        let told = places.into_iter();
        told.map(move |place| format!("{place}: several types are called {name}"))
    });
    told.collect()
}

#[derive(Default)]
struct Types {
    names: Vec<(usize, String)>,
}

impl Types {
    fn take(&mut self, name: &syn::Ident) {
        self.names
            .push((name.span().start().line, name.to_string()));
    }
}

impl<'ast> Visit<'ast> for Types {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.take(&item.ident);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.take(&item.ident);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.take(&item.ident);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.take(&item.ident);
    }
}

/// Documentation whose first words do not name the thing. What a command's help
/// shows is no documentation.
pub(crate) fn riddles(directory: &str, sources: &Sources) -> Vec<String> {
    each(directory, sources, |blocks: Documentation| blocks.riddles)
}

#[derive(Default)]
struct Documentation {
    riddles: Vec<(usize, String)>,
    last_line: Option<usize>,
}

impl<'ast> Visit<'ast> for Documentation {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        if !derives(&item.attrs, &HELP) {
            visit::visit_item_struct(self, item);
        }
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        if !derives(&item.attrs, &HELP) {
            visit::visit_item_enum(self, item);
        }
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let Meta::NameValue(value) = &attribute.meta else {
            return;
        };
        let Expr::Lit(syn::ExprLit {
            lit: Lit::Str(text),
            ..
        }) = &value.value
        else {
            return;
        };
        let line = attribute.span().start().line;
        // Every line is an attribute; the first of a block has none above it.
        if value.path.is_ident("doc") && self.last_line != Some(line - 1) {
            let text = text.value().trim().to_owned();
            if RIDDLES.iter().any(|words| begins_with(&text, words)) {
                self.riddles
                    .push((line, format!("does not name the thing first: {text}")));
            }
        }
        self.last_line = Some(line);
    }
}

fn begins_with(text: &str, words: &str) -> bool {
    let rest = text.strip_prefix(words);
    rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

/// `match` where `if` would say as much.
pub(crate) fn bool_matches(directory: &str, sources: &Sources) -> Vec<String> {
    each(directory, sources, |matches: Matches| matches.on_bool)
}

#[derive(Default)]
struct Matches {
    on_bool: Vec<(usize, String)>,
}

impl<'ast> Visit<'ast> for Matches {
    fn visit_expr_match(&mut self, item: &'ast syn::ExprMatch) {
        if item.arms.iter().any(|arm| is_bool(&arm.pat)) {
            let line = item.match_token.span.start().line;
            self.on_bool.push((line, "a match on a bool".to_owned()));
        }
        visit::visit_expr_match(self, item);
    }
}

fn is_bool(pattern: &Pat) -> bool {
    match pattern {
        Pat::Lit(literal) => matches!(literal.lit, Lit::Bool(_)),
        Pat::Guard(guarded) => is_bool(&guarded.pat),
        _ => false,
    }
}

/// Rooms whose mod.rs does not say where they run, what they touch, and for whom
/// they are.
pub(crate) fn heads<'r>(sources: &Sources, rooms: impl Iterator<Item = &'r str>) -> Vec<String> {
    let missing = rooms.filter_map(|room| {
        let file = format!("{room}/mod.rs");
        let line = missing_in_head(sources.files.get(&file)?)?;
        Some(format!(
            "src/{file}:1: no `//! {line} ..` in its head, or in another order"
        ))
    });
    missing.collect()
}

fn missing_in_head(source: &Source) -> Option<&'static str> {
    let lines = source.text.lines();
    let head = lines.map_while(|line| line.strip_prefix("//! ").or(line.strip_prefix("//!")));
    // The first line is the sentence.
    let mut head = head.skip(1);
    let mut follows =
        |start: &str| head.any(|line| line.starts_with(start) && line.len() > start.len());
    HEAD.into_iter().find(|start| !follows(start))
}
