//! Rules on Rust source: what it may not name, and where.
//!
//! The rules look at tokens, so that comments and strings may say anything and code in macros is seen too; the
//! parsed file tells where functions and tests begin and end.

use std::ops::RangeInclusive;

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Violation;
use super::arrows::PURE;
use super::tree::TextFile;

/// A Rust file, read for the rules.
pub(super) struct Source {
    pub(super) path: String,
    pub(super) lines: usize,
    pub(super) functions: Vec<Function>,
    tokens: Vec<Token>,
    inner_attributes: Vec<syn::Attribute>,
    /// Lines of code that only tests see.
    test_lines: Vec<RangeInclusive<usize>>,
    /// Modules in other files that only tests see, as paths without the ending.
    test_modules: Vec<String>,
}

/// A function with a body, by its name in the file: `tests::Fixture::new`.
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) length: usize,
}

/// A token without its tree: brackets are tokens, literals are `"`.
struct Token {
    text: String,
    line: usize,
}

impl Source {
    pub(super) fn parse(file: &TextFile) -> Result<Self, Violation> {
        let refuse = |at: proc_macro2::LineColumn, error: &dyn std::fmt::Display| {
            Violation::new(&file.path, at.line, "parses", format!("this is not Rust: {error}"))
        };
        let stream: TokenStream =
            file.text.parse().map_err(|e: proc_macro2::LexError| refuse(e.span().start(), &e))?;
        let mut tokens = Vec::new();
        flatten(stream.clone(), &mut tokens);
        let parsed: syn::File = syn::parse2(stream).map_err(|e| refuse(e.span().start(), &e))?;
        let mut outline = Outline { modules_at: modules_at(&file.path), ..Outline::default() };
        outline.visit_file(&parsed);
        Ok(Self {
            path: file.path.clone(),
            lines: file.text.lines().count(),
            functions: outline.functions,
            tokens,
            inner_attributes: parsed.attrs,
            test_lines: outline.test_lines,
            test_modules: outline.test_modules,
        })
    }

    pub(super) fn has_doc(&self) -> bool {
        self.inner_attributes.iter().any(|attribute| attribute.path().is_ident("doc"))
    }

    pub(super) fn forbids_unsafe(&self) -> bool {
        self.inner_attributes.iter().any(|attribute| {
            attribute.path().is_ident("forbid")
                && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("unsafe_code"))
        })
    }

    fn is_tested_only(&self, line: usize) -> bool {
        self.test_lines.iter().any(|range| range.contains(&line))
    }

    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    /// Whether these tokens stand at `at`.
    fn reads(&self, at: usize, tokens: &[&str]) -> bool {
        tokens.iter().enumerate().all(|(offset, text)| self.text(at + offset) == *text)
    }

    /// The index behind the bracket that closes the one at `open`.
    fn end_of_group(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for at in open..self.tokens.len() {
            match self.text(at) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" if depth == 1 => return at + 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
        }
        self.tokens.len()
    }
}

pub(super) fn check(sources: &[Source]) -> Vec<Violation> {
    let tests: Vec<&String> = sources.iter().flat_map(|source| &source.test_modules).collect();
    let mut found = Vec::new();
    for source in sources {
        found.extend((0..source.tokens.len()).filter_map(|at| everywhere(source, at)));
        found.extend((0..source.tokens.len()).filter_map(|at| attribute(source, at)));
        if is_pure(&source.path) && !is_test_file(&source.path, &tests) {
            let shipped = |at: &usize| !source.is_tested_only(source.tokens[*at].line);
            found.extend((0..source.tokens.len()).filter(shipped).filter_map(|at| pure(source, at)));
        }
    }
    found
}

/// Rules for every file.
fn everywhere(source: &Source, at: usize) -> Option<Violation> {
    let word = source.text(at);
    let (rule, advice) = match word {
        "todo" | "unimplemented" if source.text(at + 1) == "!" => (
            "unfinished",
            format!("finish it, or return an error that says what is missing, instead of `{word}!`"),
        ),
        "unsafe" if !may_be_unsafe(&source.path) => {
            let advice = "`unsafe` lives in kernels, comm/src/{buffer,cuda}.rs, net/src/{fork,shm}.rs, ffi and python: \
                          write this without, or move it there behind a safe function";
            ("no-unsafe", advice.to_owned())
        }
        _ => return None,
    };
    Some(Violation::new(&source.path, source.tokens[at].line, rule, advice))
}

/// Modules of crates that are safe elsewhere.
const MODULES_WITH_UNSAFE: &[&str] = &[
    "crates/comm/src/buffer.rs",
    "crates/comm/src/cuda.rs",
    "crates/net/src/fork.rs",
    "crates/net/src/shm.rs",
];

fn may_be_unsafe(path: &str) -> bool {
    let rooms = ["crates/kernels/", "crates/ffi/", "crates/python/"];
    rooms.iter().any(|room| path.starts_with(room)) || MODULES_WITH_UNSAFE.contains(&path)
}

/// Rules on attributes, for every file.
fn attribute(source: &Source, at: usize) -> Option<Violation> {
    let open = match (source.text(at), source.text(at + 1)) {
        ("#", "[") => at + 1,
        ("#", "!") if source.text(at + 2) == "[" => at + 2,
        _ => return None,
    };
    let inside = open + 1..source.end_of_group(open) - 1;
    let conditional = source.text(open + 1) == "cfg_attr";
    let violation =
        |at: usize, rule, advice| Some(Violation::new(&source.path, source.tokens[at].line, rule, advice));
    for at in inside {
        let first = at == open + 1 || conditional;
        if first && source.text(at) == "ignore" {
            let advice =
                "an ignored test proves nothing: make it pass, delete it, or move it to a command of xtask";
            return violation(at, "no-ignore", advice);
        }
        if first && source.text(at) == "allow" && source.text(at + 1) == "(" {
            let arguments = at + 1..source.end_of_group(at + 1);
            if !arguments.into_iter().any(|at| source.reads(at, &["reason", "="])) {
                let advice =
                    "write `#[expect(…, reason = \"…\")]`, which complains when it is no longer needed";
                return violation(at, "allow-has-reason", advice);
            }
        }
    }
    None
}

fn is_pure(path: &str) -> bool {
    PURE.iter().any(|room| path.starts_with(&format!("crates/{room}/src/")))
}

fn is_test_file(path: &str, test_modules: &[&String]) -> bool {
    let stem = path.trim_end_matches(".rs");
    test_modules.iter().any(|module| {
        let rest = stem.strip_prefix(module.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Rules for the crates that know no socket, clock, thread, file or entropy.
fn pure(source: &Source, at: usize) -> Option<Violation> {
    let word = source.text(at);
    let advice = match word {
        "HashMap" | "HashSet" | "RandomState" => {
            format!(
                "`{word}` is walked in another order in every process: take a BTreeMap, a BTreeSet or a Vec"
            )
        }
        "TcpStream" | "TcpListener" | "UdpSocket" => {
            format!("`{word}` is a socket: return the bytes from `poll_transmit` and let `net` send them")
        }
        "Instant" | "SystemTime" if source.reads(at + 1, &[":", ":", "now"]) => {
            format!("`{word}::now` reads a clock: take `now` as an argument")
        }
        "elapsed" if source.reads(at + 1, &["(", ")"]) && at > 0 && source.text(at - 1) == "." => {
            "`.elapsed()` reads a clock: take `now` as an argument and subtract".to_owned()
        }
        "std" if source.reads(at + 1, &[":", ":"]) => impure_module(source, at + 3)?,
        _ => return None,
    };
    Some(Violation::new(&source.path, source.tokens[at].line, "pure-source", advice))
}

/// What is impure in the path or the group of paths that follows `std::`.
fn impure_module(source: &Source, at: usize) -> Option<String> {
    let named = |at: usize| {
        let module = source.text(at);
        let impure = ["env", "fs", "process", "thread"].contains(&module);
        impure.then(|| {
            format!("`std::{module}` reaches out of the state machine: leave it to the crate that drives it")
        })
    };
    if source.text(at) != "{" {
        return named(at);
    }
    let mut next = at + 1;
    while next < source.end_of_group(at) {
        if let Some(advice) = named(next) {
            return Some(advice);
        }
        // To the next path of this group, over the groups inside it.
        while !["", ",", "}"].contains(&source.text(next)) {
            next = if source.text(next) == "{" { source.end_of_group(next) } else { next + 1 };
        }
        next += 1;
    }
    None
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        let mut push = |text: String, line| tokens.push(Token { text, line });
        match tree {
            TokenTree::Ident(ident) => push(ident.to_string(), line),
            TokenTree::Punct(punct) => push(punct.as_char().to_string(), line),
            TokenTree::Literal(_) => push("\"".to_owned(), line),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                    proc_macro2::Delimiter::Bracket => ("[", "]"),
                    proc_macro2::Delimiter::Brace | proc_macro2::Delimiter::None => ("{", "}"),
                };
                push(open.to_owned(), line);
                flatten(group.stream(), tokens);
                let line = group.span_close().end().line;
                tokens.push(Token { text: close.to_owned(), line });
            }
        }
    }
}

/// Where the modules that a file declares are found: `src/a.rs` and `src/a/mod.rs` both look in `src/a`.
fn modules_at(path: &str) -> String {
    let stem = path.trim_end_matches(".rs");
    let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    if ["lib", "main", "mod"].contains(&name) { folder.to_owned() } else { stem.to_owned() }
}

/// Walks a parsed file and notes its functions and what only tests see.
#[derive(Default)]
struct Outline {
    modules_at: String,
    scope: Vec<String>,
    functions: Vec<Function>,
    test_lines: Vec<RangeInclusive<usize>>,
    test_modules: Vec<String>,
}

impl Outline {
    fn function(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let line = signature.span().start().line;
        let length = body.brace_token.span.close().end().line + 1 - line;
        let scope = self.scope.iter().cloned();
        let name = scope.chain([signature.ident.to_string()]).collect::<Vec<_>>().join("::");
        self.functions.push(Function { name, line, length });
    }

    fn note_test(&mut self, attributes: &[syn::Attribute], item: &impl Spanned) {
        if attributes.iter().any(is_cfg_test) {
            let span = item.span();
            self.test_lines.push(span.start().line..=span.end().line);
        }
    }

    fn within(&mut self, name: String, walk: impl FnOnce(&mut Self)) {
        self.scope.push(name);
        walk(self);
        self.scope.pop();
    }
}

fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
}

fn type_name(of: &syn::Type) -> String {
    match of {
        syn::Type::Path(path) => {
            path.path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default()
        }
        syn::Type::Reference(reference) => type_name(&reference.elem),
        _ => "_".to_owned(),
    }
}

impl<'ast> Visit<'ast> for Outline {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.note_test(&item.attrs, item);
        if item.content.is_none() && item.attrs.iter().any(is_cfg_test) {
            let mut path = vec![self.modules_at.clone()];
            path.extend(self.scope.iter().cloned());
            path.push(item.ident.to_string());
            self.test_modules.push(path.join("/"));
        }
        self.within(item.ident.to_string(), |outline| {
            visit::visit_item_mod(outline, item);
        });
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.note_test(&item.attrs, item);
        self.within(type_name(&item.self_ty), |outline| {
            visit::visit_item_impl(outline, item);
        });
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.within(item.ident.to_string(), |outline| {
            visit::visit_item_trait(outline, item);
        });
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_test(&item.attrs, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note_test(&item.attrs, item);
        self.function(&item.sig, &item.block);
        self.within(item.sig.ident.to_string(), |outline| {
            visit::visit_item_fn(outline, item);
        });
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note_test(&item.attrs, item);
        self.function(&item.sig, &item.block);
        self.within(item.sig.ident.to_string(), |outline| {
            visit::visit_impl_item_fn(outline, item);
        });
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.function(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests;
