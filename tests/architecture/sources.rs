//! The sources of a crate: its modules, and what each of them names of others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, Item, Meta, UseTree};

/// A path as its segments; of a module, those after `crate`.
pub(crate) type Segments = Vec<String>;

/// The sources of one crate, without its tests.
pub(crate) struct Sources {
    /// The crate's own name, by which its programs import its library.
    name: String,
    pub(crate) files: BTreeMap<String, Source>,
    modules: BTreeMap<Segments, Module>,
    imports: Vec<Written>,
    /// Files that no module declares.
    pub(crate) strays: BTreeSet<String>,
}

/// A file that is not only tests.
pub(crate) struct Source {
    pub(crate) text: String,
    pub(crate) syntax: syn::File,
    /// How many of its lines are not tests.
    pub(crate) lines: usize,
}

struct Module {
    file: String,
    is_test: bool,
    /// What `use` calls by a name here.
    bound: BTreeMap<String, Segments>,
}

/// A path as it is written in a module.
struct Written {
    file: String,
    line: usize,
    module: Segments,
    path: Segments,
}

/// One module's mention of something outside.
pub(crate) struct Import {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) module: Segments,
    pub(crate) target: Target,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Target {
    /// A module of the same crate and the file that has it.
    Ours { module: Segments, file: String },
    /// A path that begins with another crate's name.
    Foreign(Segments),
}

impl Sources {
    /// Every `.rs` file beneath `directory`.
    pub(crate) fn read(directory: &Path, name: &str) -> Self {
        fn collect(directory: &Path, base: &Path, texts: &mut BTreeMap<String, String>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    collect(&path, base, texts);
                } else if path.extension().is_some_and(|e| e == "rs") {
                    let file = path.strip_prefix(base).unwrap().to_str().unwrap();
                    texts.insert(file.to_owned(), fs::read_to_string(&path).unwrap());
                }
            }
        }
        let mut texts = BTreeMap::new();
        collect(directory, directory, &mut texts);
        Self::parse(name, texts)
    }

    pub(crate) fn parse(name: &str, texts: BTreeMap<String, String>) -> Self {
        let mut sources = Self {
            name: name.to_owned(),
            files: BTreeMap::new(),
            modules: BTreeMap::new(),
            imports: Vec::new(),
            strays: texts.keys().cloned().collect(),
        };
        for file in texts.keys() {
            let program = file == "main.rs" || file.starts_with("bin/");
            if program {
                // A crate beside the library: its root has a name that no module can have.
                sources.load(&texts, file, vec![format!("<{file}>")], false);
            } else if file == "lib.rs" {
                sources.load(&texts, file, Vec::new(), false);
            }
        }
        sources
    }

    /// Takes in one file, as the module that it is, and those of its child modules.
    fn load(
        &mut self,
        texts: &BTreeMap<String, String>,
        file: &str,
        module: Segments,
        is_test: bool,
    ) {
        let text = &texts[file];
        let mut syntax = syn::parse_file(text).unwrap_or_else(|e| panic!("{file}: {e}"));
        let is_test = is_test || for_tests(&syntax.attrs);
        self.strays.remove(file);
        for (child, attributes) in child_files(&syntax.items) {
            let path = self.file_of(texts, file, &module, &child);
            let child = [&module[..], &[child]].concat();
            self.load(texts, &path, child, is_test || for_tests(&attributes));
        }
        let mut tests = TestRemover::default();
        tests.visit_file_mut(&mut syntax);
        self.modules
            .insert(module.clone(), Module::new(file, is_test));
        if is_test {
            return;
        }
        let mut reader = Reader {
            sources: self,
            file,
            module,
        };
        reader.visit_file(&syntax);
        let source = Source {
            text: text.clone(),
            syntax,
            lines: text.lines().count() - tests.lines,
        };
        self.files.insert(file.to_owned(), source);
    }

    /// The file of a module that `file` declares.
    fn file_of(
        &self,
        texts: &BTreeMap<String, String>,
        file: &str,
        module: &[String],
        child: &str,
    ) -> String {
        let root = module.is_empty() || module.last().is_some_and(|name| name.starts_with('<'));
        let directory = match file.rsplit_once('/') {
            Some((directory, "mod.rs")) => format!("{directory}/"),
            Some((directory, _)) if root => format!("{directory}/"),
            None if root => String::new(),
            _ => format!("{}/", file.trim_end_matches(".rs")),
        };
        let candidates = [
            format!("{directory}{child}.rs"),
            format!("{directory}{child}/mod.rs"),
        ];
        let found = candidates.into_iter().find(|path| texts.contains_key(path));
        found.unwrap_or_else(|| panic!("{file}: no file of `mod {child}`"))
    }

    /// Everything that production code names outside of its own module.
    pub(crate) fn imports(&self) -> Vec<Import> {
        let resolve = |written: &Written| {
            let path = self.absolute(&written.module, &written.path, 0);
            let target = match path {
                Err(foreign) => Target::Foreign(foreign),
                Ok(path) => {
                    let module = self.module_in(&path);
                    let Module { file, is_test, .. } = &self.modules[&module];
                    if *is_test || module == written.module {
                        return None;
                    }
                    let file = file.clone();
                    Target::Ours { module, file }
                }
            };
            Some(Import {
                file: written.file.clone(),
                line: written.line,
                module: written.module.clone(),
                target,
            })
        };
        self.imports.iter().filter_map(resolve).collect()
    }

    /// The innermost module that a path of ours leads through.
    fn module_in(&self, path: &[String]) -> Segments {
        let inner = (0..=path.len()).rev().map(|length| &path[..length]);
        let mut modules = inner.filter(|prefix| self.modules.contains_key(*prefix));
        modules.next().unwrap().to_vec()
    }

    /// The path from the root of the crate, or one that begins with another crate.
    fn absolute(
        &self,
        from: &[String],
        path: &[String],
        steps: usize,
    ) -> Result<Segments, Segments> {
        let bound_to = |module: &[String], name: &str| {
            let target = self.modules.get(module)?.bound.get(name)?;
            (target[0] != name && steps < 16).then_some(target)
        };
        let child = [from, &path[..1]].concat();
        let root = from.iter().take_while(|name| name.starts_with('<')).count();
        let found = match path[0].as_str() {
            "crate" => [&from[..root], &path[1..]].concat(),
            name if name == self.name => path[1..].to_vec(),
            "self" => [from, &path[1..]].concat(),
            "super" => {
                let supers = path.iter().take_while(|name| *name == "super").count();
                [&from[..from.len() - supers], &path[supers..]].concat()
            }
            _ if self.modules.contains_key(&child) => [from, path].concat(),
            name => match bound_to(from, name) {
                Some(target) => {
                    return self.absolute(from, &[target, &path[1..]].concat(), steps + 1);
                }
                None => return Err(path.to_vec()),
            },
        };
        // What the root of the crate passes on is its module's.
        let passed_on = match found.first() {
            Some(name) if self.module_in(&found).is_empty() => bound_to(&[], name),
            _ => None,
        };
        if let Some(target) = passed_on {
            return self.absolute(&[], &[target, &found[1..]].concat(), steps + 1);
        }
        Ok(found)
    }
}

impl Module {
    fn new(file: &str, is_test: bool) -> Self {
        Self {
            file: file.to_owned(),
            is_test,
            bound: BTreeMap::new(),
        }
    }
}

/// The modules that are in files of their own.
fn child_files(items: &[Item]) -> Vec<(String, Vec<Attribute>)> {
    let declared = items.iter().filter_map(|item| match item {
        Item::Mod(module) if module.content.is_none() => {
            Some((module.ident.unraw().to_string(), module.attrs.clone()))
        }
        _ => None,
    });
    declared.collect()
}

/// Whether what has these attributes is compiled for tests alone.
fn for_tests(attributes: &[Attribute]) -> bool {
    fn means_test(meta: &Meta) -> bool {
        let nested = |list: &syn::MetaList| {
            let parser = syn::punctuated::Punctuated::<Meta, syn::Token![,]>::parse_terminated;
            list.parse_args_with(parser).unwrap_or_default()
        };
        match meta {
            Meta::Path(path) => path.is_ident("test"),
            Meta::List(list) if list.path.is_ident("all") => nested(list).iter().any(means_test),
            Meta::List(list) if list.path.is_ident("cfg") => nested(list).iter().all(means_test),
            _ => false,
        }
    }
    attributes
        .iter()
        .any(|attribute| means_test(&attribute.meta))
}

/// Takes tests out of a file.
#[derive(Default)]
struct TestRemover {
    lines: usize,
}

impl TestRemover {
    fn is_kept(&mut self, attributes: &[Attribute], whole: &impl Spanned) -> bool {
        let kept = !for_tests(attributes);
        if !kept {
            let span = whole.span();
            self.lines += span.end().line - span.start().line + 1;
        }
        kept
    }
}

/// The attributes of whichever kind of node it is.
macro_rules! attributes {
    ($node:expr, $type:ident: $($kind:ident)+) => {
        match $node {
            $(syn::$type::$kind(node) => &node.attrs[..],)+
            _ => &[],
        }
    };
}

fn of_item(item: &Item) -> &[Attribute] {
    attributes!(item, Item: Const Enum ExternCrate Fn ForeignMod Impl Macro Mod Static Struct Trait
        TraitAlias Type Union Use)
}

impl VisitMut for TestRemover {
    fn visit_file_mut(&mut self, file: &mut syn::File) {
        file.items.retain(|item| self.is_kept(of_item(item), item));
        visit_mut::visit_file_mut(self, file);
    }

    fn visit_item_mod_mut(&mut self, module: &mut syn::ItemMod) {
        if let Some((_, items)) = &mut module.content {
            items.retain(|item| self.is_kept(of_item(item), item));
        }
        visit_mut::visit_item_mod_mut(self, module);
    }

    fn visit_item_impl_mut(&mut self, block: &mut syn::ItemImpl) {
        block.items.retain(|item| {
            let attributes = attributes!(item, ImplItem: Const Fn Type Macro);
            self.is_kept(attributes, item)
        });
        visit_mut::visit_item_impl_mut(self, block);
    }

    fn visit_block_mut(&mut self, block: &mut syn::Block) {
        block.stmts.retain(|statement| {
            let attributes = match statement {
                syn::Stmt::Local(local) => &local.attrs[..],
                syn::Stmt::Item(item) => of_item(item),
                syn::Stmt::Macro(call) => &call.attrs[..],
                syn::Stmt::Expr(..) => &[],
            };
            self.is_kept(attributes, statement)
        });
        visit_mut::visit_block_mut(self, block);
    }
}

/// Writes down a file's modules and the paths in it.
struct Reader<'s> {
    sources: &'s mut Sources,
    file: &'s str,
    module: Segments,
}

impl Reader<'_> {
    fn write_down(&mut self, path: Segments, line: usize) {
        self.sources.imports.push(Written {
            file: self.file.to_owned(),
            line,
            module: self.module.clone(),
            path,
        });
    }

    fn read_use(&mut self, tree: &UseTree, prefix: &Segments) {
        let line = tree.span().start().line;
        let with = |name: &syn::Ident| match name.unraw().to_string().as_str() {
            "self" => prefix.clone(),
            name => [&prefix[..], &[name.to_owned()]].concat(),
        };
        match tree {
            UseTree::Path(path) => self.read_use(&path.tree, &with(&path.ident)),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.read_use(tree, prefix);
                }
            }
            UseTree::Glob(_) => self.write_down(prefix.clone(), line),
            UseTree::Name(name) => {
                let path = with(&name.ident);
                self.bind(path.last().unwrap().clone(), &path);
                self.write_down(path, line);
            }
            UseTree::Rename(rename) => {
                let path = with(&rename.ident);
                self.bind(rename.rename.to_string(), &path);
                self.write_down(path, line);
            }
        }
    }

    fn bind(&mut self, name: String, path: &Segments) {
        let module = self.sources.modules.get_mut(&self.module).unwrap();
        module.bound.insert(name, path.clone());
    }

    fn read_path(&mut self, path: &syn::Path, line: usize) {
        let names = path.segments.iter().map(|s| s.ident.unraw().to_string());
        self.write_down_if_long(names.collect(), line);
    }

    /// One name alone is no path to anywhere else.
    fn write_down_if_long(&mut self, path: Segments, line: usize) {
        if path.len() > 1 {
            self.write_down(path, line);
        }
    }

    /// Paths in what only a macro understands.
    fn read_tokens(&mut self, tokens: TokenStream) {
        let mut path = Segments::new();
        let mut colons = 0;
        let mut line = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.write_down_if_long(std::mem::take(&mut path), line);
                        line = name.span().start().line;
                    }
                    path.push(name.unraw().to_string());
                }
                TokenTree::Group(group) => {
                    self.write_down_if_long(std::mem::take(&mut path), line);
                    self.read_tokens(group.stream());
                }
                TokenTree::Literal(literal) => {
                    self.write_down_if_long(std::mem::take(&mut path), line);
                    self.read_literal(&literal);
                }
                TokenTree::Punct(_) => self.write_down_if_long(std::mem::take(&mut path), line),
            }
            colons = 0;
        }
        self.write_down_if_long(std::mem::take(&mut path), line);
    }

    /// A path in a string, as serde's attributes have it.
    fn read_literal(&mut self, literal: &proc_macro2::Literal) {
        let text = literal.to_string();
        let inside = text.trim_matches('"');
        if let Ok(path) = syn::parse_str(inside) {
            self.read_path(&path, literal.span().start().line);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.content.is_some() {
            self.module.push(module.ident.unraw().to_string());
            let inline = Module::new(self.file, false);
            self.sources.modules.insert(self.module.clone(), inline);
            visit::visit_item_mod(self, module);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.read_use(&item.tree, &Segments::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.read_path(path, path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.read_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.read_tokens(list.tokens.clone());
        }
    }

    // `pub(in crate::worker)` is no import.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}
