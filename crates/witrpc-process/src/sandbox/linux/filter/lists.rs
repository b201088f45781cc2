//! Which system calls a worker needs, and why. What is not here is refused.

use libc::{c_int, c_long};
use seccompiler::BackendError;

use super::{Condition, OWN_PROCESS, Opening, Rules, Stage, allow, allow_if};

/// Numbers from here on are newer than this list: Linux 6.10 has none of them.
pub(in super::super) const UNKNOWN: u32 = 463;

/// Calls for which libraries have a fallback. From 424 on, all architectures have the same numbers.
pub(in super::super) const ABSENT: &[u32] = &[
    435, // clone3: its flags are in memory, where no filter sees them. Threads are started by clone.
    437, // openat2: the same.
    439, // faccessat2
    449, 454, 455, 456, // futex_waitv, futex_wake, futex_wait, futex_requeue
    453, // map_shadow_stack
    462, // mseal
];

/// `epoll_pwait2`, which some versions of musl's headers lack.
const EPOLL_PWAIT2: c_long = 441;
const CLOSE_RANGE: c_long = 436;
const LANDLOCK_RESTRICT_SELF: c_long = 446;

/// Memory that the process has. (`mmap` is below. Not: `mlock`, `mincore`, `process_madvise`, `userfaultfd`, and `memfd_create`, which gets
/// around a limit.)
const MEMORY: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_msync,
];

/// Threads, their locks and their end.
const THREADS: &[c_long] = &[
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_getcpu,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
];

/// Handlers of the process's own signals.
const SIGNALS: &[c_long] = &[
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
];

/// Clocks, random numbers, and what the process is.
const FACTS: &[c_long] = &[
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_times,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getcwd,
];

/// Descriptors that the process has, however it came by them. (Not: `fchmod`, `fchown`, `fsetxattr`, `futimens`, which Landlock does not check.)
const DESCRIPTORS: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_close,
    CLOSE_RANGE,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
];

/// Of files by name nothing can be hidden but what is in them: `fstat` of some versions of glibc is `newfstatat`, whose path no filter sees.
/// A backtrace finds its executable by `readlink`.
const METADATA: &[c_long] =
    &[libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_readlinkat];

/// Waiting: what a runtime does.
const WAITING: &[c_long] = &[
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    EPOLL_PWAIT2,
    libc::SYS_eventfd2,
];

/// Sockets that the process was given: none can be made, bound or connected. (Not: `setsockopt`, much of which only root needs.)
const SOCKETS: &[c_long] = &[
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_accept4,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
];

/// Older names of the same, which only this architecture has.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[c_long] = &[
    libc::SYS_time,
    libc::SYS_pause,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_readlink,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[c_long] = &[];

/// Opened files are looked into.
const READING: &[c_long] =
    &[libc::SYS_getdents64, libc::SYS_faccessat, libc::SYS_fstatfs, libc::SYS_flock];
#[cfg(target_arch = "x86_64")]
const LEGACY_READING: &[c_long] = &[libc::SYS_access];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY_READING: &[c_long] = &[];

/// Names are made and removed; Landlock knows where. (Not: links and devices; `chmod` and its like; `truncate`, which older versions of Landlock do not
/// check.)
const WRITING: &[c_long] = &[
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fallocate,
    libc::SYS_copy_file_range,
];
#[cfg(target_arch = "x86_64")]
const LEGACY_WRITING: &[c_long] =
    &[libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_rename, libc::SYS_renameat];
/// `renameat`, which libraries use there.
#[cfg(not(target_arch = "x86_64"))]
const LEGACY_WRITING: &[c_long] = &[38];

/// What it takes to start a program. Which programs, is for Landlock.
const STARTING: &[c_long] = &[libc::SYS_execve, LANDLOCK_RESTRICT_SELF];
#[cfg(target_arch = "x86_64")]
const LEGACY_STARTING: &[c_long] = &[libc::SYS_arch_prctl];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY_STARTING: &[c_long] = &[];

/// Flags of `clone` that make a thread, and that make namespaces.
const THREAD: c_int = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
const NAMESPACES: c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;
/// Mappings that a limit of memory does not count (those that grow), or that are the system's (huge pages).
const UNCOUNTED: c_int = libc::MAP_GROWSDOWN | libc::MAP_HUGETLB;
const MAPPING: c_int = libc::MAP_TYPE | UNCOUNTED;
/// In the low bits of a socket's type.
const SOCKET_TYPE: u32 = 0xf;
/// Without the bit that it shares with `O_DIRECTORY`.
const UNNAMED_FILE: c_int = libc::O_TMPFILE & !libc::O_DIRECTORY;
const CHANGES: c_int = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | UNNAMED_FILE;
const SET_MODE_FILTER: u32 = libc::SECCOMP_SET_MODE_FILTER;
/// `TCGETS` asks whether it is a terminal. (Not: `TIOCSTI`, which types into it, nor `FIOASYNC` and `FIOSETOWN`, which have others signalled.)
const CONTROLS: [u32; 5] = [
    0x5421, // FIONBIO
    0x5451, // FIOCLEX
    0x5450, // FIONCLEX
    0x541b, // FIONREAD
    0x5401, // TCGETS
];
/// Requests for the large registers of newer processors: `ARCH_GET_XCOMP_SUPP`, `ARCH_GET_XCOMP_PERM`, `ARCH_REQ_XCOMP_PERM`. (A start may
/// request more.)
#[cfg(target_arch = "x86_64")]
const REGISTERS: [u32; 3] = [0x1021, 0x1022, 0x1023];
/// Locks of files.
const LOCKS: [c_int; 6] = [
    libc::F_GETLK,
    libc::F_SETLK,
    libc::F_SETLKW,
    libc::F_OFD_GETLK,
    libc::F_OFD_SETLK,
    libc::F_OFD_SETLKW,
];

const fn bits(value: c_int) -> u32 {
    value.unsigned_abs() // None is negative.
}

/// What is allowed.
///
/// # Errors
///
/// If a condition is nonsense.
pub(super) fn rules(stage: Stage, opening: Opening) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    for list in [MEMORY, THREADS, SIGNALS, FACTS, DESCRIPTORS, METADATA, WAITING, SOCKETS, LEGACY] {
        allow(&mut rules, list);
    }
    computing(&mut rules)?;
    given_descriptors(&mut rules, opening)?;
    files(&mut rules, opening)?;
    if stage == Stage::One {
        allow(&mut rules, STARTING);
        allow(&mut rules, LEGACY_STARTING);
        allow_if(&mut rules, libc::SYS_seccomp, &[&[Condition::Is(0, SET_MODE_FILTER)]])?;
        // It changes nothing, and fails if there are several threads: so an agent knows whether there are.
        let asks = Condition::Is(0, bits(libc::CLONE_THREAD));
        allow_if(&mut rules, libc::SYS_unshare, &[&[asks]])?;
    }
    Ok(rules)
}

/// Threads, memory, and the process itself.
fn computing(rules: &mut Rules) -> Result<(), BackendError> {
    use Condition::{Is, IsZero, Masked};

    let thread = Masked(0, bits(THREAD | NAMESPACES), bits(THREAD));
    allow_if(rules, libc::SYS_clone, &[&[thread]])?;
    // Memory that is shared, of no file, would not count.
    let private = Masked(3, bits(MAPPING), bits(libc::MAP_PRIVATE));
    let shared = Masked(3, bits(MAPPING | libc::MAP_ANONYMOUS), bits(libc::MAP_SHARED));
    allow_if(rules, libc::SYS_mmap, &[&[private], &[shared]])?;
    // An abort, and the end with the host, are signals of the process to itself.
    allow_if(rules, libc::SYS_kill, &[&[Is(0, OWN_PROCESS)]])?;
    allow_if(rules, libc::SYS_tgkill, &[&[Is(0, OWN_PROCESS)]])?;
    allow_if(rules, libc::SYS_sched_setaffinity, &[&[Is(0, 0)]])?;
    // Limits can be read.
    allow_if(rules, libc::SYS_prlimit64, &[&[Is(0, 0), IsZero(2)]])?;
    let names = [Is(0, bits(libc::PR_SET_NAME)), Is(0, bits(libc::PR_GET_NAME))];
    allow_if(rules, libc::SYS_prctl, &[&names[..1], &names[1..]])?;
    #[cfg(target_arch = "x86_64")]
    for request in REGISTERS {
        allow_if(rules, libc::SYS_arch_prctl, &[&[Is(0, request)]])?;
    }
    Ok(())
}

/// What can be asked of a descriptor.
fn given_descriptors(rules: &mut Rules, opening: Opening) -> Result<(), BackendError> {
    use Condition::{Is, IsZero, Masked};

    // Not to the address of somebody else. (An unconnected socket would have to be given.)
    allow_if(rules, libc::SYS_sendto, &[&[IsZero(4)]])?;
    // A runtime wakes itself by one. Those for datagrams could be connected to others by sending.
    let stream = Masked(1, SOCKET_TYPE, bits(libc::SOCK_STREAM));
    allow_if(rules, libc::SYS_socketpair, &[&[Is(0, bits(libc::AF_UNIX)), stream]])?;
    for control in CONTROLS {
        allow_if(rules, libc::SYS_ioctl, &[&[Is(1, control)]])?;
    }
    let questions =
        [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL];
    let locks = if opening == Opening::ForWriting { &LOCKS[..] } else { &[] };
    for command in questions.iter().chain(&[libc::F_GET_SEALS]).chain(locks) {
        allow_if(rules, libc::SYS_fcntl, &[&[Is(1, bits(*command))]])?;
    }
    // Not: F_SETOWN and F_SETSIG, by which the kernel sends any signal to any process of the same user.
    let flags = [Is(1, bits(libc::F_SETFL)), Masked(2, bits(libc::O_ASYNC), 0)];
    allow_if(rules, libc::SYS_fcntl, &[&flags])
}

/// What can be opened.
fn files(rules: &mut Rules, opening: Opening) -> Result<(), BackendError> {
    if opening == Opening::None {
        return Ok(());
    }
    allow(rules, READING);
    allow(rules, LEGACY_READING);
    // The place of the flags.
    open(rules, libc::SYS_openat, 2, opening)?;
    #[cfg(target_arch = "x86_64")]
    open(rules, libc::SYS_open, 1, opening)?;
    if opening == Opening::ForWriting {
        allow(rules, WRITING);
        allow(rules, LEGACY_WRITING);
    }
    Ok(())
}

fn open(
    rules: &mut Rules,
    number: c_long,
    flags: u8,
    opening: Opening,
) -> Result<(), BackendError> {
    use Condition::Masked;

    let reading = Masked(flags, bits(CHANGES), bits(libc::O_RDONLY));
    allow_if(rules, number, &[&[reading]])?;
    if opening == Opening::ForWriting {
        // Truncating what is opened for reading only is nothing that older versions of Landlock check.
        let making = Masked(flags, bits(libc::O_ACCMODE | libc::O_TRUNC), bits(libc::O_RDONLY));
        let writing = |mode| Masked(flags, bits(libc::O_ACCMODE), bits(mode));
        let alternatives = [making, writing(libc::O_WRONLY), writing(libc::O_RDWR)];
        for alternative in &alternatives {
            allow_if(rules, number, &[std::slice::from_ref(alternative)])?;
        }
    }
    Ok(())
}
