//! A new project: its name checked, its folder made, its files written. Nothing that exists is overwritten.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// What a project consists of. `NAME` stands for its name, `WHERE` for where forebay comes from. Three have other
/// names here, so that no tool takes them for files of this repository.
const FILES: [(&str, &str); 9] = [
    ("Cargo.toml", include_str!("../template/Cargo.toml.in")),
    ("src/model.rs", include_str!("../template/src/model.rs")),
    ("src/pipeline.rs", include_str!("../template/src/pipeline.rs")),
    ("src/main.rs", include_str!("../template/src/main.rs")),
    ("tests/serves.rs", include_str!("../template/tests/serves.rs")),
    ("Dockerfile", include_str!("../template/Dockerfile")),
    ("README.md", include_str!("../template/README.md")),
    (".gitignore", include_str!("../template/gitignore")),
    (".dockerignore", include_str!("../template/dockerignore")),
];

/// What no package can be called: words of Rust, folders of cargo, and what the project depends on.
const TAKEN: &str = "abstract alloc as async await become box break build const continue core crate deps do dyn else \
    enum examples extern false final fn for forebay gen if impl in incremental let loop macro match mimalloc mod move \
    mut override priv proc_macro pub ref return self serde static std struct super test tokio trait true try type \
    typeof unsafe unsized use virtual where while yield";

/// Makes the project `name` in a folder of that name. forebay is the published crate unless a checkout is given.
pub fn make(name: &str, checkout: Option<&Path>) -> Result<(), String> {
    check(name)?;
    let from = match checkout {
        Some(checkout) => path_to(checkout)?,
        None => format!("version = {:?}", env!("CARGO_PKG_VERSION")),
    };
    let folder = Path::new(name);
    make_room(folder)?;
    for (path, text) in FILES {
        write(&folder.join(path), &text.replace("NAME", name).replace("{ WHERE,", &format!("{{ {from},")))?;
    }
    Ok(())
}

fn check(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(fits) || name.len() > 64 {
        let rule = "begin with a letter; then letters, digits, - and _ may follow, at most 64 in all";
        return Err(format!("`{name}` cannot name a package: {rule}"));
    }
    if TAKEN.split_whitespace().any(|taken| taken == name) {
        return Err(format!("`{name}` cannot name a package: to Rust, cargo or a dependency it means something else"));
    }
    Ok(())
}

/// How the manifest names a checkout.
fn path_to(checkout: &Path) -> Result<String, String> {
    let framework = checkout.join("framework");
    if !framework.join("Cargo.toml").is_file() {
        let checkout = checkout.display();
        return Err(format!("`{checkout}` is no checkout of forebay: there is no {checkout}/framework/Cargo.toml"));
    }
    let framework = framework.canonicalize().map_err(|why| cannot("find", &framework, why))?;
    let text = framework.to_str().filter(|text| !text.contains(char::is_control));
    let text = text.ok_or_else(|| cannot("write down", &framework, "the path is not plain text"))?;
    Ok(format!("path = \"{}\"", text.replace('\\', r"\\").replace('"', "\\\"")))
}

/// Makes the folder, unless it is there and empty.
fn make_room(folder: &Path) -> Result<(), String> {
    match fs::create_dir(folder) {
        Ok(()) => return Ok(()),
        Err(why) if why.kind() != ErrorKind::AlreadyExists => return Err(cannot("make", folder, why)),
        Err(_) => {}
    }
    let mut entries = fs::read_dir(folder).map_err(|why| cannot("use", folder, why))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(format!("`{}` exists and is not empty: choose another name, or move it away", folder.display())),
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let written = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        File::create_new(path)?.write_all(text.as_bytes())
    };
    written().map_err(|why| cannot("write", path, why))
}

fn cannot(what: &str, path: &Path, why: impl Display) -> String {
    format!("cannot {what} `{}`: {why}", path.display())
}
