//! The pin directory: `BPFFS/v1/maps/NAME` and `BPFFS/v1/links/HOOK`. What is pinned outlives the agent. The
//! version is that of `segd_common::schema`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapInfo, MapType, Stack};
use aya_obj::Object;
use aya_obj::generated::bpf_map_type::{self, BPF_MAP_TYPE_STACK};
use segd_common::counter::OVERFLOW;
use segd_common::schema::{self, COUNTER_PLACES, FREE_COUNTERS};

use super::{Error, hooks, host};

/// Maps that are pinned.
const PINNED: [&str; 25] = [
    schema::ACTIVE,
    schema::HOSTS,
    schema::PREFIXES4,
    schema::PREFIXES6,
    schema::POLICY,
    schema::SERVICES,
    schema::FAILSAFES,
    schema::PATTERNS,
    schema::WORKLOADS,
    schema::ENDED,
    schema::ANCESTORS,
    schema::USERS,
    schema::SEATS,
    schema::GREETED,
    schema::SOCKETS,
    schema::SEEDS,
    schema::FLOWS_OUT,
    schema::FLOWS_IN,
    schema::DENIALS,
    schema::BUDGET,
    schema::COUNTER_KEYS,
    schema::COUNTERS,
    FREE_COUNTERS,
    schema::LOSSES,
    schema::EVENTS,
];

/// The directories of one agent's pins.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    base: PathBuf,
}

impl Pins {
    /// Makes the directories where they are missing.
    pub(super) fn open(base: &Path) -> Result<Self, Error> {
        if !host::is_bpffs(base) {
            return Err(Error::NotBpffs { path: base.to_owned() });
        }
        let pins = Self { base: base.to_owned() };
        for dir in [pins.maps(), pins.links()] {
            fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
        }
        Ok(pins)
    }

    /// The same, of what is there.
    pub(super) fn at(base: &Path) -> Self {
        Self { base: base.to_owned() }
    }

    fn version(&self) -> PathBuf {
        self.base.join(format!("v{}", schema::VERSION))
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    pub(super) fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    /// Whether a former agent left programs attached.
    pub(super) fn has_links(&self) -> bool {
        self.link_count() > 0
    }

    /// How many links a former agent left.
    pub(super) fn link_count(&self) -> usize {
        fs::read_dir(self.links()).map_or(0, Iterator::count)
    }

    /// Names and pins of the maps, for the loader, which opens a pin or makes the map and pins it. Pins that
    /// are there are compared first: the loader trusts them blindly.
    pub(super) fn prepare(&self, object: &Object) -> Result<Vec<(&'static str, PathBuf)>, Error> {
        let pin = |name: &'static str| (name, self.maps().join(name));
        for (name, path) in PINNED.map(pin) {
            let definition = object.maps.get(name).ok_or(Error::Object { what: name })?;
            if path.exists() {
                compare(definition, &path)?;
            } else if name == FREE_COUNTERS {
                pin_free_counters(&path)?;
            }
        }
        Ok(PINNED.map(pin).into())
    }

    /// Unpins the counters; the programs in place go on with theirs until others take over.
    pub(super) fn remove_counters(&self) -> Result<(), Error> {
        for name in [schema::COUNTER_KEYS, schema::COUNTERS, FREE_COUNTERS] {
            let pin = self.maps().join(name);
            match fs::remove_file(&pin) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", &pin, e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Unpins everything of this version, as after a start that failed.
    pub(super) fn remove_own(&self) -> Result<usize, Error> {
        self.remove(|path| path == self.version())
    }

    /// Unpins what agents of other versions left: their programs would go on by a policy that nobody tends.
    pub(super) fn remove_others(&self) -> Result<usize, Error> {
        self.remove(|path| path != self.version())
    }

    /// Unpins everything of every version. Pins of a version that this agent does not know are segd's too.
    pub(super) fn remove_all(&self) -> Result<usize, Error> {
        self.remove(|_| true)
    }

    /// Links go first, so that no program runs on without its tables. Returns how many hooks were freed.
    fn remove(&self, wanted: impl Fn(&Path) -> bool) -> Result<usize, Error> {
        if !self.base.exists() {
            return Ok(0);
        }
        if !host::is_bpffs(&self.base) {
            return Err(Error::NotBpffs { path: self.base.clone() });
        }
        let mut freed = 0;
        for version in entries(&self.base)?.into_iter().filter(|path| is_version(path) && wanted(path)) {
            for link in entries(&version.join("links"))? {
                hooks::detach(&link).map_err(|e| Error::io("remove", &link, e))?;
                freed += 1;
            }
            remove_tree(&version)?;
        }
        fs::remove_dir(&self.base).or_else(|e| match e.kind() {
            // The mount point itself, or somebody else's files beside ours.
            io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty => Ok(()),
            _ => Err(Error::io("remove", &self.base, e)),
        })?;
        Ok(freed)
    }
}

/// Whether a path is a directory `vN`; a BPF file system has files of the kernel's own at its root.
fn is_version(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy());
    let number = name.as_deref().and_then(|n| n.strip_prefix('v')).map(str::parse::<u32>);
    matches!(number, Some(Ok(_))) && path.is_dir()
}

/// The entries of a directory that may be missing.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = match fs::read_dir(dir) {
        Ok(read) => read,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", dir, e)),
    };
    let mut found = Vec::new();
    for entry in read {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        found.push(entry.path());
    }
    Ok(found)
}

fn remove_tree(dir: &Path) -> Result<(), Error> {
    for path in entries(dir)? {
        if path.is_dir() {
            remove_tree(&path)?;
        } else {
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
    }
    fs::remove_dir(dir).map_err(|e| Error::io("remove", dir, e))
}

fn compare(definition: &aya_obj::Map, path: &Path) -> Result<(), Error> {
    let info = MapInfo::from_pin(path).map_err(|e| Error::map("a pinned map", e))?;
    let kind = bpf_map_type::try_from(definition.map_type()).ok().and_then(|t| MapType::try_from(t).ok());
    let facts = [
        ("key size", definition.key_size(), info.key_size()),
        ("value size", definition.value_size(), info.value_size()),
        ("entries", definition.max_entries(), info.max_entries()),
        ("flags", definition.map_flags(), info.map_flags()),
    ];
    if info.map_type().ok() != kind {
        let what = format!("its type is {:?}", info.map_type().ok());
        return Err(Error::MapShape { path: path.to_owned(), what });
    }
    for (what, wanted, is) in facts {
        if wanted != is {
            let what = format!("its {what} is {is}, not {wanted}");
            return Err(Error::MapShape { path: path.to_owned(), what });
        }
    }
    Ok(())
}

/// The stack of free counter places must never be seen half filled, so it is filled before it is pinned.
fn pin_free_counters(path: &Path) -> Result<(), Error> {
    let failed = |e| Error::map(FREE_COUNTERS, e);
    let definition = aya_obj::Map::new_from_params(BPF_MAP_TYPE_STACK as u32, 0, 4, COUNTER_PLACES, 0);
    let map = MapData::create(definition, FREE_COUNTERS, None).map_err(failed)?;
    let mut stack: Stack<MapData, u32> = Map::from_map_data(map).and_then(Stack::try_from).map_err(failed)?;
    for place in (OVERFLOW + 1..COUNTER_PLACES).rev() {
        stack.push(place, 0).map_err(failed)?;
    }
    stack.pin(path).map_err(|source| Error::Pin { path: path.to_owned(), source: Box::new(source) })
}
