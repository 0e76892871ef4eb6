//! Names that would lead out of a folder.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// Pieces of hostile names.
const PIECES: [&str; 22] = [
    "..",
    ".",
    "",
    "a",
    "link",
    "up",
    "absolute",
    "loop",
    "file",
    "fifo",
    "C:",
    "c:\\windows",
    "..\\..",
    "a\0b",
    "a\nb",
    "\u{7f}",
    "..%2f",
    "%2e%2e",
    "．．",
    "~",
    ".x.partial",
    ".x.partial.log",
];

/// All that is in a folder and in its folders, and what it is.
fn census(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap();
            let text = match () {
                () if kind.is_file() => fs::read_to_string(&path).unwrap(),
                () if kind.is_dir() => {
                    dirs.push(path.clone());
                    "a directory".to_owned()
                }
                () => "a link or other".to_owned(),
            };
            found.insert(path, text);
        }
    }
    found
}

/// A folder with traps, in one with something to break into.
struct Traps {
    outer: tempfile::TempDir,
    root: PathBuf,
}

impl Traps {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        fs::create_dir_all(root.join("a")).unwrap();
        fs::create_dir(outer.path().join("outside")).unwrap();
        fs::write(outer.path().join("outside/secret"), "secret").unwrap();
        fs::write(root.join("file"), "a file").unwrap();
        symlink("../outside", root.join("link")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink(outer.path().join("outside/secret"), root.join("absolute")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("../outside/new", root.join("a/dangling")).unwrap();
        let fifo = std::process::Command::new("mkfifo").arg(root.join("fifo")).status().unwrap();
        assert!(fifo.success());
        Traps { outer, root }
    }

    fn outside(&self) -> BTreeMap<PathBuf, String> {
        let mut all = census(self.outer.path());
        all.retain(|path, _| !path.starts_with(&self.root));
        all
    }
}

/// Pieces alone, in pairs, and in threes with one that leads up or away.
fn names() -> Vec<String> {
    let mut names: Vec<String> = PIECES.iter().map(|piece| (*piece).to_owned()).collect();
    for first in PIECES {
        names.extend(PIECES.iter().map(|second| format!("{first}/{second}")));
    }
    names.extend(["../".repeat(20) + "etc/passwd", "/etc/passwd".into(), "x".repeat(256), "a/".repeat(600) + "a"]);
    names.extend(
        ["a/b/../../../x", "a/./b", "link/secret", "link/new", "up/outside/secret", "up/new", "a/dangling"]
            .map(str::to_owned),
    );
    names
}

#[tokio::test]
async fn no_name_leads_out_of_a_folder() {
    let traps = Traps::new();
    let before = traps.outside();
    let (mut refused, mut kept) = (0, 0);
    let places = Places::new().folder(&traps.root).bucket("b", Memory::new());
    for name in names() {
        // As a key whose object is downloaded, as a path to be written, and as one to be read.
        let made = Key::new(name.as_str()).and_then(|key| local::make_below(&traps.root, &key));
        match &made {
            Ok(path) => {
                assert!(path.starts_with(&traps.root), "{name:?}: {path:?}");
                assert!(!path.components().any(|part| part.as_os_str() == ".."), "{name:?}: {path:?}");
                fs::write(path, "kept").unwrap();
                kept += 1;
            }
            Err(why) => {
                assert_eq!(why.fault(), Fault::Invalid, "{name:?}: {why}");
                refused += 1;
            }
        }
        assert_eq!(traps.outside(), before, "{name:?}");
        for text in [name.clone(), name.replace('%', "%25"), name.replace('/', "%2f"), name.replace('.', "%2E")] {
            let Ok(reference) = format!("file://{}/{text}", traps.root.display()).parse::<Reference>() else {
                continue;
            };
            let read = places.get(&reference, 1 << 20).await;
            assert!(read.as_ref().map_or(true, |read| read != "secret"), "{text:?}: {read:?}");
            let written = places.send(&reference, Content::bytes("written"), Put::Create).await;
            if let Err(why) = written {
                assert_eq!(why.fault(), Fault::Invalid, "{text:?}: {why}");
            }
            assert_eq!(traps.outside(), before, "{text:?}");
        }
    }
    assert!(refused >= 200, "{refused} were refused");
    assert!(kept >= 5, "{kept} were kept: honest names among them have to be");
    // What was kept is below the root, under its own name.
    assert_eq!(fs::read_to_string(traps.root.join("~")).unwrap(), "kept");
    assert_eq!(fs::read_to_string(traps.root.join("%2e%2e")).unwrap(), "kept");
}

#[tokio::test]
async fn only_allowed_folders_and_regular_files_are_read_and_nothing_is_replaced() {
    let traps = Traps::new();
    let root = traps.root.display().to_string();
    let places = Places::new().folder(&traps.root).folder("relative");
    let at = |path: &str| reference(format!("file://{root}{path}"));
    assert_eq!(places.get(&at("/file"), 100).await.unwrap(), "a file");
    refused(places.get(&at("/file"), 5).await, Fault::Invalid, "it has 6 bytes, but at most 5");
    refused(places.get(&at("/missing"), 5).await, Fault::Invalid, "there is no such object");
    for path in
        ["/fifo", "/a", "/link", "/absolute", "/link/secret", "/up/root/file", "/loop", "/a/dangling", "/file/x"]
    {
        refused(places.get(&at(path), 100).await, Fault::Invalid, path.trim_start_matches('/'));
    }
    for text in ["file:///etc/passwd", "file:///dev/zero", "file:///proc/self/environ", "file:///relative/a"] {
        refused(places.get(&reference(text), 100).await, Fault::Invalid, "not below a folder that this worker knows");
    }
    // A folder whose name begins like an allowed one's is another.
    fs::create_dir(format!("{root}-private")).unwrap();
    fs::write(format!("{root}-private/a"), "private").unwrap();
    refused(places.get(&at("-private/a"), 100).await, Fault::Invalid, "not below a folder");

    let created = places.send(&at("/new/b"), Content::bytes("b"), Put::Create).await.unwrap();
    assert!(matches!(created, Outcome::Stored(_)));
    let again = places.send(&at("/new/b"), Content::bytes("c"), Put::Create).await.unwrap();
    assert_eq!(again, Outcome::Conflict);
    assert_eq!(fs::read(traps.root.join("new/b")).unwrap(), b"b");
    let over = places.send(&at("/new/b"), Content::bytes("c"), Put::Overwrite).await.unwrap();
    assert!(matches!(over, Outcome::Stored(_)));
    assert_eq!(fs::read(traps.root.join("new/b")).unwrap(), b"c");
    // A link is replaced as a name: what it led to stays as it was.
    let _ = places.send(&at("/absolute"), Content::bytes("c"), Put::Overwrite).await.unwrap();
    assert_eq!(fs::read(traps.outer.path().join("outside/secret")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(traps.root.join("new")).unwrap().count(), 1, "nothing unfinished is left");
}
