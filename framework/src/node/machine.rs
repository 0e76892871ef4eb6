//! What this machine has for the process: free disk, free memory and CPUs, within the limits of its container.
//!
//! It reads the kernel's files, those of control groups in version 2 and 1, below a root that tests may move. It judges
//! nothing, and what cannot be read is left out.

use std::io;
use std::path::{Path, PathBuf};

/// The machine, as this process sees it.
#[derive(Clone)]
pub(super) struct Machine {
    /// Where `proc` and `sys` are.
    root: PathBuf,
    /// CPUs that the process may run on.
    parallelism: usize,
    /// Bytes that are free for the process on the disk of a folder.
    free: fn(&Path) -> io::Result<u64>,
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// What the machine could still give.
    pub(super) machine: Option<u64>,
    /// What the container's limit leaves, where it has one.
    pub(super) container: Option<u64>,
}

/// CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cpus {
    /// Those that the process may run on.
    pub(super) machine: f64,
    /// How many CPUs' time the container may use, where that is limited.
    pub(super) container: Option<f64>,
}

impl Machine {
    pub(super) fn new() -> Self {
        let parallelism = std::thread::available_parallelism().map_or(1, |count| count.get());
        Machine { root: PathBuf::from("/"), parallelism, free }
    }

    #[cfg(test)]
    pub(super) fn made_up(root: &Path, parallelism: usize, free: fn(&Path) -> io::Result<u64>) -> Self {
        Machine { root: root.to_owned(), parallelism, free }
    }

    pub(super) fn disk(&self, folder: &Path) -> io::Result<u64> {
        (self.free)(folder)
    }

    pub(super) fn memory(&self) -> Memory {
        let machine = self.read("proc/meminfo").and_then(|text| Some(1024 * field(&text, "MemAvailable:")?));
        let container = match self.group("memory") {
            Group::Unified(group) => least(&group, |folder| {
                let limit = number(folder.join("memory.max"))?;
                let cache = stat(folder, "inactive_file");
                Some(limit.saturating_sub(number(folder.join("memory.current"))?.saturating_sub(cache)))
            }),
            Group::Own(group) => least(&group, |folder| {
                // "No limit" is the largest multiple of a page.
                let limit = number(folder.join("memory.limit_in_bytes")).filter(|limit| *limit < 1 << 60)?;
                let cache = stat(folder, "total_inactive_file");
                Some(limit.saturating_sub(number(folder.join("memory.usage_in_bytes"))?.saturating_sub(cache)))
            }),
        };
        Memory { machine, container }
    }

    pub(super) fn cpus(&self) -> Cpus {
        let share = |quota: u64, period: u64| (period > 0).then(|| quota as f64 / period as f64);
        let container = match self.group("cpu") {
            Group::Unified(group) => least(&group, |folder| {
                let text = std::fs::read_to_string(folder.join("cpu.max")).ok()?;
                let (quota, period) = text.trim().split_once(' ')?;
                share(quota.parse().ok()?, period.parse().ok()?)
            }),
            // "No quota" is -1, which is no number here.
            Group::Own(group) => least(&group, |folder| {
                share(number(folder.join("cpu.cfs_quota_us"))?, number(folder.join("cpu.cfs_period_us"))?)
            }),
        };
        Cpus { machine: self.parallelism as f64, container }
    }

    fn read(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(file)).ok()
    }

    /// The folders of this process's control group and those above it, for one controller. In a container the group's
    /// own folder is often the root of what is mounted, whatever its name outside; then only that is there.
    fn group(&self, controller: &str) -> Group {
        let text = self.read("proc/self/cgroup").unwrap_or_default();
        let mount = self.root.join("sys/fs/cgroup");
        if mount.join("cgroup.controllers").exists() {
            let group = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
            return Group::Unified(folders(&mount, group));
        }
        let of = |line: &str| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, group) = rest.split_once(':')?;
            controllers.split(',').any(|one| one == controller).then(|| (controllers.to_owned(), group.to_owned()))
        };
        let (controllers, group) = text.lines().find_map(of).unwrap_or((controller.to_owned(), "/".to_owned()));
        let together = mount.join(controllers);
        let mount = if together.is_dir() { together } else { mount.join(controller) };
        Group::Own(folders(&mount, &group))
    }
}

enum Group {
    /// All controllers in one tree: version 2.
    Unified(Vec<PathBuf>),
    /// A tree of its own for each: version 1.
    Own(Vec<PathBuf>),
}

/// The group's folder, and each one above it up to the mount. `..` is how a group outside of the container is shown.
fn folders(mount: &Path, group: &str) -> Vec<PathBuf> {
    let parts: Vec<&str> = group.split('/').filter(|part| !part.is_empty() && *part != "..").collect();
    (0..=parts.len()).map(|depth| parts[..depth].iter().fold(mount.to_owned(), |at, part| at.join(part))).collect()
}

/// The tightest limit on the way up.
fn least<T: PartialOrd>(group: &[PathBuf], limit: impl Fn(&Path) -> Option<T>) -> Option<T> {
    group.iter().filter_map(|folder| limit(folder)).reduce(|a, b| if b < a { b } else { a })
}

/// `max`, for no limit, is no number.
fn number(file: PathBuf) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// What the kernel would give back before it lets the group run out of memory.
fn stat(folder: &Path, name: &str) -> u64 {
    let text = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    field(&text, name).unwrap_or(0)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn free(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose files are these.
    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = root.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let machine = Machine::made_up(root.path(), 16, |_| Ok(0));
        (root, machine)
    }

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal: 16000000 kB\nMemFree: 1000 kB\nMemAvailable:   12000000 kB\n");

    #[test]
    fn a_container_of_version_2_that_sees_itself_as_the_root() {
        let (_root, machine) = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpu memory\n"),
            ("sys/fs/cgroup/memory.max", "8589934592\n"),
            ("sys/fs/cgroup/memory.current", "3000000000\n"),
            ("sys/fs/cgroup/memory.stat", "anon 5\ninactive_file 1000000000\nactive_file 7\n"),
            ("sys/fs/cgroup/cpu.max", "150000 100000\n"),
        ]);
        let container = Some(8_589_934_592 - 2_000_000_000);
        assert_eq!(machine.memory(), Memory { machine: Some(12_288_000_000), container });
        assert_eq!(machine.cpus(), Cpus { machine: 16.0, container: Some(1.5) });
    }

    #[test]
    fn the_tightest_limit_of_a_group_and_those_above_it_counts() {
        let (_root, machine) = machine(&[
            ("proc/self/cgroup", "0::/pods/mine\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpu memory\n"),
            ("sys/fs/cgroup/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/pods/cpu.max", "200000 100000\n"),
            ("sys/fs/cgroup/pods/mine/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/pods/memory.max", "1000\n"),
            ("sys/fs/cgroup/pods/memory.current", "100\n"),
            ("sys/fs/cgroup/pods/mine/memory.max", "2000\n"),
            ("sys/fs/cgroup/pods/mine/memory.current", "1500\n"),
        ]);
        assert_eq!(machine.memory(), Memory { machine: None, container: Some(500) });
        assert_eq!(machine.cpus().container, Some(2.0));
    }

    #[test]
    fn a_container_of_version_1() {
        let (_root, machine) = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"),
            // Mounted as the container's own: the path of outside is not there.
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4294967296\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "294967296\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 100000000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(machine.memory().container, Some(4_294_967_296 - 194_967_296));
        assert_eq!(machine.cpus(), Cpus { machine: 16.0, container: Some(4.0) });
    }

    #[test]
    fn without_limits_the_machine_is_all_there_is() {
        let (_root, of_version_1) = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "5:memory:/\n4:cpu:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "5\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        let (_root, nothing) = machine(&[]);
        for (machine, memory) in [(of_version_1, Some(12_288_000_000)), (nothing, None)] {
            assert_eq!(machine.memory(), Memory { machine: memory, container: None });
            assert_eq!(machine.cpus(), Cpus { machine: 16.0, container: None });
        }
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::new();
        assert!(machine.memory().machine.is_some_and(|bytes| bytes > 1 << 20));
        assert!(machine.cpus().machine >= 1.0);
        assert!(machine.disk(&std::env::temp_dir()).unwrap() > 0);
        assert!(machine.disk(Path::new("/no/such/folder")).is_err());
    }
}
