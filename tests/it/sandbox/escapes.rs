//! What a hostile worker would try. Each attempt is harmless where it succeeds.

#![expect(
    unsafe_code,
    reason = "they are calls of the system, as a hostile worker would make them"
)]

use std::ffi::CString;
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::{fs, net, process, thread};

use super::contract::{Aim, Outcome};

type Attempt = fn(&Aim) -> Result<()>;

/// An attempt that any user can make.
const fn any(name: &'static str, attempt: Attempt) -> (&'static str, bool, Attempt) {
    (name, false, attempt)
}

/// One that takes root, or what root has.
const fn root(name: &'static str, attempt: Attempt) -> (&'static str, bool, Attempt) {
    (name, true, attempt)
}

const ALL: &[(&str, bool, Attempt)] = &[
    // Files.
    any("read a file", |aim| fs::read(&aim.file).map(drop)),
    any("list a directory", |aim| fs::read_dir(&aim.folder).map(drop)),
    any("write a file", |aim| fs::OpenOptions::new().append(true).open(&aim.file).map(drop)),
    any("make a file", |aim| fs::write(format!("{}/made", aim.folder), "x")),
    any("make a directory", |aim| fs::create_dir_all(format!("{}/a/b", aim.folder))),
    any("remove a file", |aim| {
        fs::write(format!("{}/gone", aim.folder), "x")?;
        fs::remove_file(format!("{}/gone", aim.folder))
    }),
    any("make a nameless file", |aim| {
        let flags = libc::O_TMPFILE | libc::O_RDWR;
        descriptor(libc::SYS_openat, &[AT, text(&aim.folder).at(), int(flags), 0o600]).map(drop)
    }),
    any("make a link", |aim| {
        std::os::unix::fs::symlink("/etc/passwd", format!("{}/link", aim.folder))
    }),
    any("make a second name", |aim| fs::hard_link(&aim.file, format!("{}/twin", aim.folder))),
    any("make a FIFO", |aim| {
        let path = format!("{}/fifo", aim.folder);
        call(libc::SYS_mknodat, &[AT, text(&path).at(), mode(libc::S_IFIFO | 0o600), 0])
    }),
    any("truncate by path", |aim| call(libc::SYS_truncate, &[text(&aim.file).at(), 100])),
    any("truncate while opening for reading", |aim| {
        let path = format!("{}/short", aim.folder);
        let _made = fs::write(&path, "x");
        descriptor(libc::SYS_openat, &[AT, text(&path).at(), int(libc::O_TRUNC)]).map(drop)
    }),
    any("change a mode", |aim| call(libc::SYS_fchmodat, &[AT, text(&aim.file).at(), 0o644])),
    // Whose owner it takes.
    root("change the mode of the executable", |_| {
        let own = fs::File::open(std::env::current_exe()?)?;
        call(libc::SYS_fchmod, &[number(&own), 0o755])
    }),
    any("change an owner", |aim| {
        call(libc::SYS_fchownat, &[AT, text(&aim.file).at(), usize::MAX, usize::MAX, 0])
    }),
    any("change times", |aim| call(libc::SYS_utimensat, &[AT, text(&aim.file).at(), 0, 0])),
    any("set an attribute", |aim| {
        let (name, value) = (text("user.witrpc"), text("x"));
        call(libc::SYS_setxattr, &[text(&aim.file).at(), name.at(), value.at(), 1, 0])
    }),
    any("change the directory", |aim| call(libc::SYS_chdir, &[text(&aim.folder).at()])),
    root("open by a handle", |aim| {
        let mut handle = [0_u32; 40];
        handle[0] = 128;
        let mut mount = 0_i32;
        let (handle, mount) = (handle.as_mut_ptr() as usize, &raw mut mount as usize);
        call(libc::SYS_name_to_handle_at, &[AT, text(&aim.file).at(), handle, mount, 0])?;
        let folder = fs::File::open(&aim.folder)?;
        descriptor(libc::SYS_open_by_handle_at, &[number(&folder), handle, 0]).map(drop)
    }),
    // The network, and others' sockets.
    any("open a socket", |_| net::TcpListener::bind(("127.0.0.1", 0)).map(drop)),
    any("connect out", |aim| net::TcpStream::connect(("127.0.0.1", aim.port)).map(drop)),
    any("send a datagram", |aim| {
        let socket = net::UdpSocket::bind(("127.0.0.1", 0))?;
        socket.send_to(b"x", ("127.0.0.1", aim.port)).map(drop)
    }),
    any("connect to a socket with a path", |aim| UnixStream::connect(&aim.socket).map(drop)),
    any("connect to an abstract socket", |aim| {
        use std::os::linux::net::SocketAddrExt as _;

        let name = SocketAddr::from_abstract_name(&aim.abstract_socket)?;
        UnixStream::connect_addr(&name).map(drop)
    }),
    any("make a pair for datagrams", |_| {
        let mut pair = [0_i32; 2];
        let (domain, kind) = (int(libc::AF_UNIX), int(libc::SOCK_DGRAM | libc::SOCK_CLOEXEC));
        call(libc::SYS_socketpair, &[domain, kind, 0, pair.as_mut_ptr() as usize])?;
        pair.into_iter().for_each(|end| drop(own(end)));
        Ok(())
    }),
    any("ask the kernel by netlink", |_| {
        descriptor(libc::SYS_socket, &[int(libc::AF_NETLINK), int(libc::SOCK_RAW), 0]).map(drop)
    }),
    // Programs and libraries.
    any("start a program", |_| process::Command::new("/bin/true").status().map(drop)),
    any("fork", |_| in_child(|| Ok(()), true)),
    any("clone by the newer call", |_| {
        let arguments = [0_u64, 0, 0, 0, 17, 0, 0, 0];
        child(result(raw(libc::SYS_clone3, &[arguments.as_ptr() as usize, 64])), || Ok(()))
    }),
    any("execute itself", |_| in_child(|| execute("/proc/self/exe"), false)),
    any("execute from memory", |_| {
        let file = descriptor(libc::SYS_memfd_create, &[text("x").at(), 0])?;
        fs::write(format!("/proc/self/fd/{}", file.as_raw_fd()), fs::read("/bin/true")?)?;
        in_child(|| execute_descriptor(&file), false)
    }),
    any("load a library", |aim| {
        let path = text(&aim.library);
        // SAFETY: it is a library of the system without anything that runs at once.
        let loaded = unsafe { libc::dlopen(path.0.as_ptr(), libc::RTLD_NOW) };
        // The loader does not say which error it was.
        if loaded.is_null() { Err(Error::from_raw_os_error(libc::EACCES)) } else { Ok(()) }
    }),
    // The host, and other processes.
    any("trace the host", |aim| {
        let host = aim.host;
        // It goes with the thread.
        let tracing = move || call(libc::SYS_ptrace, &[0x4206, int(host), 0, 0]);
        thread::spawn(tracing).join().unwrap_or_else(|_| Err(Error::other("it has panicked")))
    }),
    any("read the host's memory", |aim| {
        let mut bytes = [0_u8; 8];
        let local = [bytes.as_mut_ptr() as usize, 8];
        let remote = [aim.address, 8];
        let (local, remote) = (local.as_ptr() as usize, remote.as_ptr() as usize);
        call(libc::SYS_process_vm_readv, &[int(aim.host), local, 1, remote, 1, 0])
    }),
    any("write the host's memory", |aim| {
        let bytes = *b"harmless";
        let (local, remote) = ([bytes.as_ptr() as usize, 8], [aim.address, 8]);
        let (local, remote) = (local.as_ptr() as usize, remote.as_ptr() as usize);
        call(libc::SYS_process_vm_writev, &[int(aim.host), local, 1, remote, 1, 0])
    }),
    any("open the host's memory", |aim| {
        fs::File::open(format!("/proc/{}/mem", aim.host)).map(drop)
    }),
    any("read the host's environment", |aim| {
        fs::read(format!("/proc/{}/environ", aim.host)).map(drop)
    }),
    any("open a descriptor of the host by path", |aim| {
        fs::File::open(format!("/proc/{}/fd/0", aim.host)).map(drop)
    }),
    any("take a descriptor of the host", |aim| {
        let take = |host| descriptor(libc::SYS_pidfd_getfd, &[host, 0, 0]).map(drop);
        match descriptor(libc::SYS_pidfd_open, &[int(aim.host), 0]) {
            Ok(host) => take(number(&host)),
            // It has inherited one.
            Err(error) => (3..2048).map(take).find(Result::is_ok).unwrap_or(Err(error)),
        }
    }),
    // It has inherited one.
    any("signal the host by a descriptor", |_| {
        let signal = |fd| call(libc::SYS_pidfd_send_signal, &[fd, int(libc::SIGCONT), 0, 0]);
        (3..2048).map(signal).find(|sent| sent.is_ok()).unwrap_or_else(|| signal(3))
    }),
    any("signal the host", |aim| call(libc::SYS_kill, &[int(aim.host), int(libc::SIGCONT)])),
    any("signal a thread of the host", |aim| {
        let host = int(aim.host);
        call(libc::SYS_tgkill, &[host, host, int(libc::SIGCONT)])
    }),
    any("signal a thread of the host by the older call", |aim| {
        call(libc::SYS_tkill, &[int(aim.host), int(libc::SIGCONT)])
    }),
    any("queue a signal for the host", |aim| {
        // As `sigqueue` does it.
        let mut information = [0_i32; 32];
        (information[0], information[2]) = (libc::SIGCONT, -1);
        let arguments = [int(aim.host), int(libc::SIGCONT), information.as_ptr() as usize];
        call(libc::SYS_rt_sigqueueinfo, &arguments)
    }),
    any("signal its group", |_| call(libc::SYS_kill, &[0, 0])),
    any("have the kernel signal the host", |aim| {
        let (reading, _writing) = std::io::pipe()?;
        call(libc::SYS_fcntl, &[number(&reading), int(libc::F_SETOWN), int(aim.host)])
    }),
    any("have the kernel send another signal", |_| {
        let (reading, _writing) = std::io::pipe()?;
        call(libc::SYS_fcntl, &[number(&reading), 10, int(libc::SIGKILL)])
    }),
    any("change the host's limits", |aim| {
        let mut limit = [0_u64; 2];
        let limit = limit.as_mut_ptr() as usize;
        call(libc::SYS_prlimit64, &[int(aim.host), 7, 0, limit])?;
        call(libc::SYS_prlimit64, &[int(aim.host), 7, limit, 0])
    }),
    any("change the host's processors", |aim| {
        let mut set = [0_u8; 128];
        let set = set.as_mut_ptr() as usize;
        call(libc::SYS_sched_getaffinity, &[int(aim.host), 128, set])?;
        call(libc::SYS_sched_setaffinity, &[int(aim.host), 128, set])
    }),
    any("change the host's priority", |aim| {
        // To what it is. The answer is 20 less that.
        let now = result(raw(libc::SYS_getpriority, &[0, int(aim.host)]))?;
        call(libc::SYS_setpriority, &[0, int(aim.host), usize::try_from(20 - now).unwrap_or(0)])
    }),
    any("compare with the host", |aim| {
        call(libc::SYS_kcmp, &[int(aim.host), int(aim.host), 0, 0, 0])
    }),
    // The kernel.
    any("io_uring", |_| {
        let mut parameters = [0_u8; 120];
        let parameters = parameters.as_mut_ptr() as usize;
        descriptor(libc::SYS_io_uring_setup, &[1, parameters]).map(drop)
    }),
    any("userfaultfd", |_| descriptor(libc::SYS_userfaultfd, &[1]).map(drop)),
    root("bpf", |_| {
        // An array of one element.
        let map = [2_u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        descriptor(libc::SYS_bpf, &[0, map.as_ptr() as usize, 72]).map(drop)
    }),
    any("perf events", |_| {
        // The CPU time of this process, without the kernel's.
        let mut attributes = [0_u32; 32];
        (attributes[0], attributes[1], attributes[2], attributes[10]) = (1, 128, 1, 0x60);
        let attributes = attributes.as_ptr() as usize;
        descriptor(libc::SYS_perf_event_open, &[attributes, 0, usize::MAX, usize::MAX, 0]).map(drop)
    }),
    any("keys", |_| call(libc::SYS_keyctl, &[0, int(-3), 1])),
    any("a namespace", |_| {
        in_child(|| call(libc::SYS_unshare, &[int(libc::CLONE_NEWUSER)]), false)
    }),
    root("another's namespace", |_| {
        let namespace = fs::File::open("/proc/self/ns/uts")?;
        in_child(|| call(libc::SYS_setns, &[number(&namespace), 0]), false)
    }),
    root("mount", |aim| {
        let (kind, folder, top) = (text("tmpfs"), text(&aim.folder), text("/"));
        let mount = || {
            // In a namespace of its own, if it can have one, of which nobody else sees anything.
            let private = 0x4_4000;
            call(libc::SYS_unshare, &[int(libc::CLONE_NEWNS)])
                .and_then(|()| call(libc::SYS_mount, &[0, top.at(), 0, private, 0]))
                .or_else(
                    |error| if error.raw_os_error() == Some(1) { Ok(()) } else { Err(error) },
                )?;
            call(libc::SYS_mount, &[kind.at(), folder.at(), kind.at(), 0, 0])
        };
        in_child(mount, false)
    }),
    root("chroot", |aim| {
        let folder = text(&aim.folder);
        in_child(|| call(libc::SYS_chroot, &[folder.at()]), false)
    }),
    any("personality", |_| call(libc::SYS_personality, &[0xffff_ffff])),
    any("a signal at the end of its parent", |_| call(libc::SYS_prctl, &[1, 0])),
    any("be traced by anybody", |_| call(libc::SYS_prctl, &[4, 1])),
    root("the host's name", |_| {
        let mut name = [0_u8; 64];
        call(libc::SYS_uname, &[[0_u8; 400].as_mut_ptr() as usize])?;
        let host = fs::read("/proc/sys/kernel/hostname")?;
        let length = host.len().saturating_sub(1).min(64);
        name[..length].copy_from_slice(&host[..length]);
        call(libc::SYS_sethostname, &[name.as_ptr() as usize, length])
    }),
    any("another session", |_| in_child(|| call(libc::SYS_setsid, &[]), false)),
    any("shared memory by number", |_| {
        let made = raw(libc::SYS_shmget, &[0, 4096, 0o1600]);
        let number = usize::try_from(result(made)?).unwrap_or_default();
        call(libc::SYS_shmctl, &[number, 0, 0])
    }),
    any("a queue of messages by number", |_| {
        let made = raw(libc::SYS_msgget, &[0, 0o1600]);
        let number = usize::try_from(result(made)?).unwrap_or_default();
        call(libc::SYS_msgctl, &[number, 0, 0])
    }),
    any("a call of x32", |_| call(libc::SYS_getpid | 0x4000_0000, &[])),
    // Limits.
    any("raise a limit", |_| {
        let mut limit = [0_u64; 2];
        let limit = limit.as_mut_ptr() as usize;
        call(libc::SYS_prlimit64, &[0, 7, 0, limit])?;
        call(libc::SYS_prlimit64, &[0, 7, limit, 0])
    }),
    any("allocate beyond the limit", |aim| {
        let mut bytes = Vec::<u8>::new();
        let reserved = bytes.try_reserve_exact(aim.bytes);
        reserved.map_err(|_| Error::from_raw_os_error(libc::ENOMEM))
    }),
    any("allocate beyond it piece by piece", |aim| {
        let mut pieces = Vec::new();
        for _ in 0..=aim.bytes >> 20 {
            let mut piece = Vec::<u8>::new();
            let reserved = piece.try_reserve_exact(1 << 20);
            reserved.map_err(|_| Error::from_raw_os_error(libc::ENOMEM))?;
            pieces.push(piece);
        }
        Ok(())
    }),
    any("map shared memory", |_| map(libc::MAP_SHARED | libc::MAP_ANONYMOUS)),
    any("map memory that grows", |_| {
        map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_GROWSDOWN)
    }),
    any("make memory writable later", |aim| {
        let flags = int(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        let mapped = result(raw(libc::SYS_mmap, &[0, aim.bytes, 0, flags, usize::MAX, 0]))?;
        let address = usize::try_from(mapped).unwrap_or_default();
        let made = call(libc::SYS_mprotect, &[address, aim.bytes, 3]);
        call(libc::SYS_munmap, &[address, aim.bytes])?;
        made
    }),
    any("make a file in memory", |_| {
        descriptor(libc::SYS_memfd_create, &[text("x").at(), 1]).map(drop)
    }),
    any("write to a file system in memory", |_| {
        let path = format!("/dev/shm/witrpc-sandbox-{}", process::id());
        fs::write(&path, "x")?;
        fs::remove_file(path)
    }),
    any("lock memory", |_| {
        let page = Box::new([0_u8; 4096]);
        call(libc::SYS_mlock, &[page.as_ptr() as usize, 1])
    }),
];

pub(super) fn names() -> impl Iterator<Item = (&'static str, bool)> {
    ALL.iter().map(|(name, root, _)| (*name, *root))
}

/// Whether it would end the process instead of failing, where it is permitted.
pub(super) fn ends_it(name: &str) -> bool {
    name == "execute itself"
}

pub(super) fn attempt(name: &str, aim: &Aim) -> Outcome {
    let found = ALL.iter().find(|(known, ..)| *known == name);
    outcome(
        found.map_or_else(|| Err(Error::other("there is none")), |(_, _, attempt)| attempt(aim)),
    )
}

/// With something that the host has opened.
pub(super) fn attempt_with(name: &str, file: &OwnedFd) -> Outcome {
    outcome(match name {
        "type into a terminal" => {
            call(libc::SYS_ioctl, &[number(file), 0x5412, b"x".as_ptr() as usize])
        }
        "execute a descriptor" => in_child(|| execute_descriptor(file), false),
        "change the mode of a descriptor" => call(libc::SYS_fchmod, &[number(file), 0o600]),
        "connect a socket" => {
            // An address of no kind: it dissolves a connection.
            call(libc::SYS_connect, &[number(file), [0_u8; 16].as_ptr() as usize, 16])
        }
        _ => Err(Error::other("there is none")),
    })
}

fn outcome(result: Result<()>) -> Outcome {
    match result {
        Ok(()) => Outcome::Succeeded,
        Err(error) => Outcome::Refused(error.raw_os_error().unwrap_or(-1)),
    }
}

/// The version of Landlock, or an error.
pub(super) fn landlock() -> i64 {
    raw(libc::SYS_landlock_create_ruleset, &[0, 0, 1])
}

/// `getpid`, by the interrupt that programs of 32 bits use.
#[cfg(target_arch = "x86_64")]
pub(super) fn old_door() -> i32 {
    let mut number = 20;
    // SAFETY: the call takes nothing, and changes nothing but the register of its answer.
    unsafe {
        std::arch::asm!("int 0x80", inout("eax") number, out("r8") _, out("r9") _, out("r10") _, out("r11") _)
    };
    number
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn old_door() -> i32 {
    -1
}

/// `AT_FDCWD`.
const AT: usize = usize::MAX - 99;

/// A text for the kernel.
struct Text(CString);

fn text(text: &str) -> Text {
    Text(CString::new(text).unwrap_or_default())
}

impl Text {
    fn at(&self) -> usize {
        self.0.as_ptr() as usize
    }
}

fn int(value: libc::c_int) -> usize {
    // With its sign.
    (value as isize).cast_unsigned()
}

fn mode(value: libc::mode_t) -> usize {
    value as usize
}

fn number(descriptor: impl AsFd) -> usize {
    int(descriptor.as_fd().as_raw_fd())
}

fn own(descriptor: i32) -> OwnedFd {
    // SAFETY: the kernel has just made it for this process, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// A call of the system, whatever it is.
fn raw(number: libc::c_long, arguments: &[usize]) -> i64 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = all;
    // SAFETY: the callers give what the call takes: pointers are to values of theirs, or null.
    unsafe { libc::syscall(number, a, b, c, d, e, f) }
}

fn result(returned: i64) -> Result<i64> {
    if returned < 0 { Err(Error::last_os_error()) } else { Ok(returned) }
}

fn call(number: libc::c_long, arguments: &[usize]) -> Result<()> {
    result(raw(number, arguments)).map(drop)
}

/// A call that makes a descriptor.
fn descriptor(number: libc::c_long, arguments: &[usize]) -> Result<OwnedFd> {
    let made = result(raw(number, arguments))?;
    i32::try_from(made).map(own).map_err(Error::other)
}

fn map(flags: libc::c_int) -> Result<()> {
    let mapped = result(raw(libc::SYS_mmap, &[0, 4096, 3, int(flags), usize::MAX, 0]))?;
    call(libc::SYS_munmap, &[usize::try_from(mapped).unwrap_or_default(), 4096])
}

/// Does it in a child, or, where none can be made, here; unless the child is all that matters.
fn in_child(what: impl FnOnce() -> Result<()>, only_there: bool) -> Result<()> {
    match result(raw(libc::SYS_clone, &[17, 0, 0, 0, 0])) {
        Err(error) if only_there => Err(error),
        Err(_) => what(),
        forked => child(forked, what),
    }
}

/// What a child does, and what its parent does with it.
fn child(forked: Result<i64>, what: impl FnOnce() -> Result<()>) -> Result<()> {
    let child = forked?;
    if child == 0 {
        let status = what().err().map_or(0, |error| error.raw_os_error().unwrap_or(255));
        raw(libc::SYS_exit_group, &[int(status)]);
    }
    let mut status = 0_i32;
    let child = usize::try_from(child).unwrap_or_default();
    // Whether it may be waited for or not: there is a child.
    if call(libc::SYS_wait4, &[child, &raw mut status as usize, 0, 0]).is_err() {
        return Ok(());
    }
    match libc::WEXITSTATUS(status) {
        0 => Ok(()),
        error => Err(Error::from_raw_os_error(error)),
    }
}

/// Executes a program that ends at once, as it has no arguments that make it do more.
fn execute(path: &str) -> Result<()> {
    let (path, argument) = (text(path), text("--ends"));
    let arguments = [path.at(), argument.at(), 0];
    let nothing = [0_usize];
    call(libc::SYS_execve, &[path.at(), arguments.as_ptr() as usize, nothing.as_ptr() as usize])
}

fn execute_descriptor(file: &OwnedFd) -> Result<()> {
    let (none, nothing) = (text(""), [0_usize]);
    let nothing = nothing.as_ptr() as usize;
    let empty_path = int(libc::AT_EMPTY_PATH);
    call(libc::SYS_execveat, &[number(file), none.at(), nothing, nothing, empty_path])
}
