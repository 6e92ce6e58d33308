// A host that includes C headers first, all that a system may have, compiled in GNU mode: macros such as I of
// <complex.h>, TileShape of <X11/X.h> and columns of <term.h> are then defined before the first line of losa is read.
#if __has_include(<Python.h>)
#include <Python.h>
#endif

// ISO C.
#include <assert.h>
#include <complex.h>
#include <ctype.h>
#include <errno.h>
#include <fenv.h>
#include <float.h>
#include <inttypes.h>
#include <iso646.h>
#include <limits.h>
#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdnoreturn.h>
#include <string.h>
#include <tgmath.h>
#include <time.h>
#include <uchar.h>
#include <wchar.h>
#include <wctype.h>

// POSIX and Linux.
#include <aio.h>
#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <ftw.h>
#include <glob.h>
#include <grp.h>
#include <iconv.h>
#include <langinfo.h>
#include <libgen.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nl_types.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <regex.h>
#include <sched.h>
#include <search.h>
#include <semaphore.h>
#include <spawn.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/param.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <syslog.h>
#include <termios.h>
#include <unistd.h>
#include <utime.h>
#include <wordexp.h>
#if defined(__linux__)
#include <byteswap.h>
#include <endian.h>
#include <err.h>
#include <execinfo.h>
#include <getopt.h>
#include <link.h>
#include <linux/fs.h>
#include <linux/input.h>
#include <linux/kd.h>
#include <linux/limits.h>
#include <linux/perf_event.h>
#include <linux/soundcard.h>
#include <linux/vt.h>
#include <mntent.h>
#include <obstack.h>
#include <sys/dir.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/queue.h>
#include <sys/reg.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/ucontext.h>
#include <sys/user.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <ucontext.h>
#endif

// Libraries, where they are.
#if __has_include(<curses.h>) && __has_include(<term.h>)
#include <curses.h>
#include <term.h>
#endif
#if __has_include(<X11/Xlib.h>)
#include <X11/X.h>
#include <X11/Xlib.h>
#include <X11/Xutil.h>
#include <X11/keysym.h>
#endif
#if __has_include(<zlib.h>)
#include <zlib.h>
#endif
#if __has_include(<png.h>)
#include <png.h>
#endif
#if __has_include(<cblas.h>)
#include <cblas.h>
#endif
#if __has_include(<omp.h>)
#include <omp.h>
#endif
#if __has_include(<sqlite3.h>)
#include <sqlite3.h>
#endif

#if !defined(I)
#error "<complex.h> defines no I here; is this GNU mode?"
#endif

#include <losa/gemm/plain.hpp>
#include <losa/io.hpp>
#include <losa/losa.hpp>
#include <losa/published.hpp>

#if !defined(I)
#error "losa took the macro I from its host"
#endif

int main() {
  const _Complex float unit = I;  // the host's own words still mean what they did
  return __imag__ unit == 1.0f ? 0 : 1;
}
