//! `pccl.h` says what the library does, and `pccl.map` exports it.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result};

/// With this variable set the test writes the header instead of comparing it.
const UPDATE: &str = "PCCL_UPDATE_HEADER";

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn generated() -> Result<String> {
    let config = cbindgen::Config::from_file(at("cbindgen.toml")).map_err(anyhow::Error::msg)?;
    let mut sources: Vec<PathBuf> =
        fs::read_dir(at("src"))?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    sources.sort();
    let builder = sources.into_iter().fold(cbindgen::Builder::new(), cbindgen::Builder::with_src);
    let mut text = Vec::new();
    builder.with_config(config).generate()?.write(&mut text);
    Ok(String::from_utf8(text)?)
}

/// Identifiers before a parenthesis that begin like the library's functions.
fn functions(header: &str) -> BTreeSet<String> {
    let calls =
        header.split('(').filter_map(|before| before.split(|c: char| !c.is_alphanumeric()).next_back());
    calls.filter(|name| name.starts_with("pccl")).map(str::to_owned).collect()
}

#[test]
fn the_committed_header_is_what_the_sources_say() -> Result<()> {
    let (path, fresh) = (at("include/pccl.h"), generated()?);
    if env::var_os(UPDATE).is_some() {
        fs::write(&path, &fresh)?;
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == fresh, "pccl.h is stale: run {UPDATE}=1 cargo test -p pccl-ffi --test header");
    Ok(())
}

#[test]
fn every_function_of_the_header_has_a_version_and_no_other_symbol_has() -> Result<()> {
    let header = generated()?;
    let declared = functions(&header);
    let map = fs::read_to_string(at("pccl.map")).context("pccl.map")?;
    let exported: BTreeSet<String> = map
        .lines()
        .filter_map(|l| l.trim().strip_suffix(';'))
        .filter(|name| name.starts_with("pccl"))
        .map(str::to_owned)
        .collect();
    assert_eq!(declared, exported);
    assert_eq!(declared.len(), 30);
    Ok(())
}
