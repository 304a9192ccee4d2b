"""A seccomp profile that equals the Docker Engine's own but for the calls that numactl, UCX and Open MPI need. Pure.

The calls the engine lets a container without capabilities make were read from the configurations that Docker Engine
20.10.24 and 26.1.5 give runc for one; in which release between a call came or went is by their release notes. The
format is that of ``docker run --security-opt seccomp=FILE``.
"""

from __future__ import annotations

import json
from typing import Any

# Memory of NUMA nodes, of one's own processes (the kernel asks ptrace's right of the caller, who has the same user).
# The last two Docker Engine 26.1.5 allows by itself.
ADDED = (
    "get_mempolicy",
    "set_mempolicy",
    "set_mempolicy_home_node",
    "mbind",
    "move_pages",
    "migrate_pages",
    "process_vm_readv",
    "process_vm_writev",
)
_ENGINE = """
    _llseek _newselect accept accept4 access adjtimex alarm bind brk capget capset chdir chmod chown chown32
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
    epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchown
    fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64
    fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_time64 futex_waitv futimesat get_robust_list
    get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups
    getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32
    getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32
    getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
    io_pgetevents io_pgetevents_time64 io_setup io_submit io_uring_enter io_uring_register io_uring_setup ioctl
    ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32
    lgetxattr link linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise membarrier
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat
    openat2 pause pidfd_open pidfd_send_signal pipe pipe2 poll ppoll ppoll_time64 prctl pread64 preadv preadv2
    prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat
    readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr rename renameat renameat2
    restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
    seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto
    set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
    setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
    setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr shmat shmctl shmdt shmget
    shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socket socketcall socketpair splice stat stat64
    statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit
    umask uname unlink unlinkat utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write
    writev
"""
_SINCE_23 = "name_to_handle_at pkey_alloc pkey_free pkey_mprotect"
_SINCE_25 = "cachestat fchmodat2 futex_requeue futex_wait futex_wake map_shadow_stack"
_UNTIL_25 = "io_uring_enter io_uring_register io_uring_setup"
_X86 = ("arch_prctl", "modify_ldt")
_ARM = ("arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls")
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_NAMESPACES = 0x7E020000  # the CLONE_NEW* flags of clone(2)
_AF_VSOCK = 40  # socket(2); a virtual machine's channel to its host
_ENOSYS = 38  # so that the C library falls back on clone(2), whose flags can be looked at
_ALLOW = "SCMP_ACT_ALLOW"


def profile(engine_version: str) -> str:
    """The profile as JSON, for an engine of this version (``20.10.24+dfsg1``); of none that is known, the oldest."""
    head = engine_version.split(".")[0]
    major = int(head) if head.isdecimal() else 20
    names = set(_ENGINE.split()) | {*ADDED}
    if major >= 23:
        names |= set(_SINCE_23.split())
    if major >= 25:
        names = (names | set(_SINCE_25.split())) - set(_UNTIL_25.split())
    rules: list[dict[str, Any]] = []
    if major >= 23:
        names.discard("socket")
        rules.append(_rule(["socket"], args=[_compare(0, _AF_VSOCK, "SCMP_CMP_NE")]))
    rules.append(_rule(sorted(names)))
    rules.append(_rule(["ptrace"], includes={"minKernel": "4.8"}))
    rules += [_rule(["personality"], args=[_compare(0, value, "SCMP_CMP_EQ")]) for value in _PERSONALITIES]
    rules.append(_rule([*_X86], includes={"arches": ["amd64"]}))
    rules.append(_rule([*_ARM], includes={"arches": ["arm64"]}))
    rules.append(_rule(["clone"], args=[_compare(0, _NAMESPACES, "SCMP_CMP_MASKED_EQ")]))
    rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    found = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        ],
        "syscalls": rules,
    }
    return json.dumps(found, separators=(",", ":"))


def _rule(names: list[str], **more: Any) -> dict[str, Any]:
    return {"names": names, "action": _ALLOW, **more}


def _compare(index: int, value: int, operator: str) -> dict[str, Any]:
    return {"index": index, "value": value, "op": operator}
