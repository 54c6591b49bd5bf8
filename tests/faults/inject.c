/* Faults at file-system calls, for LD_PRELOAD. Counts the calls of a process that concern files below one folder and, at
 * the N-th, lets it fail or kills the process.
 *
 *   INJECT_UNDER   the folder, as an absolute path; nothing is counted without it
 *   INJECT_ONLY    count only calls on paths that contain this text
 *   INJECT_LOG     append a line "N name path" for each counted call to this file
 *   INJECT_AT      the number of the call, from 1; 0: none
 *   INJECT_ACTION  kill (before the call), killed_after (it), short (a write of half), or an errno's number
 *   INJECT_REPEAT  how many calls from the N-th on fail; default 1; 0: all
 *   INJECT_CALLS   only these names count, separated by commas; default: all
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILES 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *paths[FILES]; /* of descriptors below the folder */
static const char *under, *only, *log_file, *action, *calls;
static long at, repeat = 1, count;
static int ready;

static void prepare(void) {
  if (ready) return;
  under = getenv("INJECT_UNDER");
  only = getenv("INJECT_ONLY");
  log_file = getenv("INJECT_LOG");
  action = getenv("INJECT_ACTION");
  calls = getenv("INJECT_CALLS");
  if (getenv("INJECT_AT")) at = atol(getenv("INJECT_AT"));
  if (getenv("INJECT_REPEAT")) repeat = atol(getenv("INJECT_REPEAT"));
  ready = 1;
}

static int is_under(const char *path) {
  return under && path && strncmp(path, under, strlen(under)) == 0 && (!only || strstr(path, only));
}

static int is_counted(const char *name) {
  const size_t length = strlen(name);
  for (const char *found = calls; found && (found = strstr(found, name)); found += length)
    if ((found == calls || found[-1] == ',') && (found[length] == ',' || !found[length])) return 1;
  return !calls;
}

/* What a path means to openat and its like; "" when it is not below the folder. */
static const char *full_path(int folder, const char *path, char *buffer) {
  if (!path) return "";
  if (path[0] == '/' || folder == AT_FDCWD) return is_under(path) ? path : "";
  if (folder < 0 || folder >= FILES || !paths[folder]) return "";
  snprintf(buffer, PATH_MAX, "%s/%s", paths[folder], path);
  return buffer;
}

enum { go_on, fail_it, halve_it, kill_after };

/* Counts one call; says what is to become of it. `path` "" is not counted. */
static int counted(const char *name, const char *path) {
  prepare();
  if (!under || !path || !*path || !is_counted(name)) return go_on;
  pthread_mutex_lock(&lock);
  const long number = ++count;
  if (log_file) {
    char line[PATH_MAX + 64];
    const int length = snprintf(line, sizeof line, "%ld %s %s\n", number, name, path);
    const int file = (int)syscall(SYS_openat, AT_FDCWD, log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file >= 0) {
      if (syscall(SYS_write, file, line, length) < 0) abort();
      syscall(SYS_close, file);
    }
  }
  pthread_mutex_unlock(&lock);
  if (at <= 0 || number < at || (repeat > 0 && number >= at + repeat)) return go_on;
  if (!action || strcmp(action, "kill") == 0) syscall(SYS_kill, getpid(), SIGKILL);
  if (strcmp(action, "killed_after") == 0) return kill_after;
  if (strcmp(action, "short") == 0) return halve_it;
  errno = atoi(action);
  return fail_it;
}

static void remember(int file, const char *path) {
  if (file < 0 || file >= FILES || !*path) return;
  pthread_mutex_lock(&lock);
  free(paths[file]);
  paths[file] = strdup(path);
  pthread_mutex_unlock(&lock);
}
static void forget(int file) {
  if (file < 0 || file >= FILES || !paths[file]) return;
  pthread_mutex_lock(&lock);
  free(paths[file]);
  paths[file] = NULL;
  pthread_mutex_unlock(&lock);
}
static const char *path_of(int file) {
  return file >= 0 && file < FILES && paths[file] ? paths[file] : "";
}

static void finish(int what) {
  if (what == kill_after) syscall(SYS_kill, getpid(), SIGKILL);
}

#define REAL(name) \
  static __typeof__(name) *real; \
  if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define WRAP(type, failed, name, parameters, arguments, path) \
  type name parameters { \
    REAL(name); \
    const int what = counted(#name, path); \
    if (what == fail_it) return failed; \
    type result = real arguments; \
    const int code = errno; \
    finish(what); \
    errno = code; \
    return result; \
  }

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(name); \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
      va_list list; \
      va_start(list, flags); \
      mode = va_arg(list, mode_t); \
      va_end(list); \
    } \
    prepare(); \
    const char *full = is_under(path) ? path : ""; \
    const int what = counted("open", full); \
    if (what == fail_it) return -1; \
    const int file = real(path, flags, mode); \
    const int code = errno; \
    remember(file, full); \
    finish(what); \
    errno = code; \
    return file; \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
  int name(int folder, const char *path, int flags, ...) { \
    REAL(name); \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
      va_list list; \
      va_start(list, flags); \
      mode = va_arg(list, mode_t); \
      va_end(list); \
    } \
    char buffer[PATH_MAX]; \
    prepare(); \
    const char *full = full_path(folder, path, buffer); \
    const int what = counted("openat", full); \
    if (what == fail_it) return -1; \
    const int file = real(folder, path, flags, mode); \
    const int code = errno; \
    remember(file, full); \
    finish(what); \
    errno = code; \
    return file; \
  }
OPENAT(openat)
OPENAT(openat64)

#define WRITE(name, parameters, arguments, halved) \
  ssize_t name parameters { \
    REAL(name); \
    const int what = counted(#name, path_of(file)); \
    if (what == fail_it) return -1; \
    if (what == halve_it && size > 1) return real halved; \
    const ssize_t result = real arguments; \
    const int code = errno; \
    finish(what); \
    errno = code; \
    return result; \
  }
WRITE(write, (int file, const void *data, size_t size), (file, data, size), (file, data, size / 2))
WRITE(pwrite, (int file, const void *data, size_t size, off_t offset), (file, data, size, offset),
      (file, data, size / 2, offset))
WRITE(pwrite64, (int file, const void *data, size_t size, off64_t offset), (file, data, size, offset),
      (file, data, size / 2, offset))
WRITE(read, (int file, void *data, size_t size), (file, data, size), (file, data, size / 2))
WRITE(pread, (int file, void *data, size_t size, off_t offset), (file, data, size, offset),
      (file, data, size / 2, offset))
WRITE(pread64, (int file, void *data, size_t size, off64_t offset), (file, data, size, offset),
      (file, data, size / 2, offset))

WRAP(int, -1, fsync, (int file), (file), path_of(file))
WRAP(int, -1, fdatasync, (int file), (file), path_of(file))
WRAP(int, -1, ftruncate, (int file, off_t size), (file, size), path_of(file))
WRAP(int, -1, ftruncate64, (int file, off64_t size), (file, size), path_of(file))
WRAP(int, -1, fallocate, (int file, int mode, off_t offset, off_t size), (file, mode, offset, size), path_of(file))
WRAP(int, -1, fallocate64, (int file, int mode, off64_t offset, off64_t size), (file, mode, offset, size),
     path_of(file))
WRAP(int, -1, fstat, (int file, struct stat *status), (file, status), path_of(file))
WRAP(int, -1, fstat64, (int file, struct stat64 *status), (file, status), path_of(file))
WRAP(int, -1, stat, (const char *restrict path, struct stat *restrict status), (path, status),
     is_under(path) ? path : "")
WRAP(int, -1, stat64, (const char *restrict path, struct stat64 *restrict status), (path, status),
     is_under(path) ? path : "")
WRAP(int, -1, lstat, (const char *restrict path, struct stat *restrict status), (path, status),
     is_under(path) ? path : "")
WRAP(int, -1, lstat64, (const char *restrict path, struct stat64 *restrict status), (path, status),
     is_under(path) ? path : "")
WRAP(int, -1, mkdir, (const char *path, mode_t mode), (path, mode), is_under(path) ? path : "")
WRAP(int, -1, unlink, (const char *path), (path), is_under(path) ? path : "")
WRAP(int, -1, rmdir, (const char *path), (path), is_under(path) ? path : "")
WRAP(int, -1, remove, (const char *path), (path), is_under(path) ? path : "")
WRAP(int, -1, rename, (const char *from, const char *to), (from, to), is_under(from) ? from : "")
WRAP(int, -1, renameat2, (int a, const char *from, int b, const char *to, unsigned int flags), (a, from, b, to, flags),
     is_under(from) ? from : "")
WRAP(void *, MAP_FAILED, mmap, (void *address, size_t size, int protection, int flags, int file, off_t offset),
     (address, size, protection, flags, file, offset), path_of(file))
WRAP(void *, MAP_FAILED, mmap64, (void *address, size_t size, int protection, int flags, int file, off64_t offset),
     (address, size, protection, flags, file, offset), path_of(file))

int unlinkat(int folder, const char *path, int flags) {
  REAL(unlinkat);
  char buffer[PATH_MAX];
  prepare();
  const int what = counted("unlinkat", full_path(folder, path, buffer));
  if (what == fail_it) return -1;
  const int result = real(folder, path, flags), code = errno;
  finish(what);
  errno = code;
  return result;
}

int close(int file) {
  REAL(close);
  const int what = counted("close", path_of(file));
  forget(file);
  const int result = real(file), code = errno;
  finish(what);
  errno = code;
  if (what == fail_it) {
    errno = atoi(action);
    return -1; /* as the real one does: closed all the same */
  }
  return result;
}

DIR *opendir(const char *path) {
  REAL(opendir);
  prepare();
  const char *full = is_under(path) ? path : "";
  const int what = counted("opendir", full);
  if (what == fail_it) return NULL;
  DIR *folder = real(path);
  const int code = errno;
  if (folder) remember(dirfd(folder), full);
  finish(what);
  errno = code;
  return folder;
}
WRAP(struct dirent *, NULL, readdir, (DIR * folder), (folder), path_of(dirfd(folder)))
WRAP(struct dirent64 *, NULL, readdir64, (DIR * folder), (folder), path_of(dirfd(folder)))
int closedir(DIR *folder) {
  REAL(closedir);
  forget(dirfd(folder));
  return real(folder);
}

#define FOPEN(name) \
  FILE *name(const char *restrict path, const char *restrict mode) { \
    REAL(name); \
    prepare(); \
    const char *full = is_under(path) ? path : ""; \
    const int what = counted("fopen", full); \
    if (what == fail_it) return NULL; \
    FILE *file = real(path, mode); \
    const int code = errno; \
    if (file) remember(fileno(file), full); \
    finish(what); \
    errno = code; \
    return file; \
  }
FOPEN(fopen)
FOPEN(fopen64)
