// Files: mapped reading, atomic writing, folders. Only POSIX calls; every failure becomes an Error
// that names the path and what the system said.
#pragma once
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "error.h"

namespace tsr {

// A whole file, read-only, in the address space.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path) : path_(path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail(errno);
    struct stat info;
    if (fstat(fd, &info) != 0) { const int reason = errno; ::close(fd); fail(reason); }
    if (S_ISDIR(info.st_mode)) { ::close(fd); fail(EISDIR); }
    if (!S_ISREG(info.st_mode)) {
      ::close(fd);
      throw Error("T0901", "cannot read " + quoted(path) + ": it is not a regular file", "copy its content to a file first; data is memory-mapped");
    }
    size_ = static_cast<size_t>(info.st_size);
    if (size_ > 0) {
      void* const at = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
      if (at == MAP_FAILED) { const int reason = errno; ::close(fd); fail(reason); }
      data_ = static_cast<const char*>(at);
    }
    ::close(fd);
  }
  ~MappedFile() { if (data_) munmap(const_cast<char*>(data_), size_); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // Gives the memory of this part back, which is read from the file again if it is wanted again. A file that is read
  // from beginning to end would otherwise stay resident, beside what was made of it.
  void release(const char* begin, size_t bytes) const {
    const uintptr_t first = reinterpret_cast<uintptr_t>(begin) / kPage * kPage;  // a page shared with a neighbour comes back
    madvise(reinterpret_cast<void*>(first), reinterpret_cast<uintptr_t>(begin) + bytes - first, MADV_DONTNEED);
  }

  const char* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  [[noreturn]] void fail(int reason) const {
    throw Error("T0901", "cannot read " + quoted(path_) + ": " + strerror(reason),
                reason == ENOENT ? "check the path; it is relative to the current folder" : "");
  }
  static constexpr uintptr_t kPage = 4096;
  std::string path_;
  const char* data_ = nullptr;
  size_t size_ = 0;
};

inline bool is_folder(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

inline std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

// The error for a failed write: a full disk has its own code.
inline Error write_error(const std::string& path, int reason) {
  if (reason == ENOSPC || reason == EDQUOT || reason == EFBIG) {
    struct statvfs space;
    const bool known = statvfs(folder_of(path).c_str(), &space) == 0;
    return Error("T0917", "cannot write " + quoted(path) + ": " + strerror(reason) +
                 (known && reason == ENOSPC ? " (" + bytes_text(static_cast<double>(space.f_bavail) * static_cast<double>(space.f_frsize)) + " free)" : std::string()),
                 "free some space or choose another folder; files written before are complete and unharmed");
  }
  return Error("T0916", "cannot write " + quoted(path) + ": " + strerror(reason), "choose a folder that exists and that you may write to");
}

// Makes renames in a folder durable, where its file system can.
inline void sync_folder(const std::string& path) {
  const int folder = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  fsync(folder);
  ::close(folder);
}

// Where a path leads through links: of a file that is not there yet, those of its folder; the path itself where that is not either.
inline std::string behind_links(const std::string& path) {
  const auto real = [](const std::string& some) {
    char* const found = realpath(some.c_str(), nullptr);
    const std::string out = found ? found : "";
    free(found);
    return out;
  };
  const std::string whole = real(path), folder = real(folder_of(path));
  if (!whole.empty() || folder.empty()) return whole.empty() ? path : whole;
  return (folder == "/" ? folder : folder + '/') + path.substr(path.rfind('/') + 1);
}

// Something that is there and neither file nor folder: a device, a pipe.
inline bool is_special(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode);
}

// Throws, before long work whose result goes to `path`, what writing it would throw in the end.
inline void check_writable(const std::string& path) {
  const std::string target = behind_links(path);
  if (is_folder(target)) throw write_error(path, EISDIR);
  const std::string folder = folder_of(target);
  if (!is_folder(folder)) throw write_error(path, access(folder.c_str(), F_OK) == 0 ? ENOTDIR : errno);
  if (access(is_special(target) ? target.c_str() : folder.c_str(), W_OK) != 0) throw write_error(path, errno);
}

// Writes to a temporary file in the same folder; commit() makes it durable and puts it in place in
// one step, so that a reader finds either the old file or the whole new one, whenever we are killed.
// A link stays, and what it leads to is replaced; a device is written to.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path)
      : path_(path), target_(behind_links(path)), in_place_(is_special(target_)), temporary_(in_place_ ? target_ : target_ + format(".tmp-%ld", static_cast<long>(getpid()))) {
    if (is_folder(target_)) throw write_error(path_, EISDIR);
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd_ < 0) throw write_error(path_, errno);
  }
  ~AtomicFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!committed_ && !in_place_) ::unlink(temporary_.c_str());
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t size) {
    const char* at = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t done = ::write(fd_, at, size < kChunk ? size : kChunk);
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) throw write_error(path_, errno);
      at += done;
      size -= static_cast<size_t>(done);
    }
  }
  // Overwrites bytes already written (a checksum known only at the end).
  void write_at(size_t offset, const void* data, size_t size) {
    if (pwrite(fd_, data, size, static_cast<off_t>(offset)) != static_cast<ssize_t>(size)) throw write_error(path_, errno);
  }
  void commit() {
    if (fsync(fd_) != 0 && !in_place_) throw write_error(path_, errno);
    const int closing = fd_;
    fd_ = -1;
    if (::close(closing) != 0) throw write_error(path_, errno);  // network file systems report a full disk here
    if (in_place_) return;
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) throw write_error(path_, errno);
    committed_ = true;
    sync_folder(folder_of(target_));
  }

 private:
  static constexpr size_t kChunk = size_t{1} << 24;
  const std::string path_, target_;
  const bool in_place_;
  const std::string temporary_;
  int fd_ = -1;
  bool committed_ = false;
};

// mkdir -p.
inline void make_folder(const std::string& path) {
  for (size_t end = 1; end <= path.size(); ++end) {
    if (end != path.size() && path[end] != '/') continue;
    const std::string part = path.substr(0, end);
    if (mkdir(part.c_str(), 0777) == 0 || errno == EEXIST || errno == EISDIR) continue;
    throw write_error(part, errno);
  }
  if (!is_folder(path)) throw write_error(path, ENOTDIR);
}

// Names in a folder, unordered, without "." and ".."; empty when there is no such folder.
inline std::vector<std::string> list_folder(const std::string& path) {
  std::vector<std::string> names;
  DIR* const folder = opendir(path.c_str());
  if (!folder) {
    if (errno == ENOENT) return names;
    throw Error("T0901", "cannot read folder " + quoted(path) + ": " + strerror(errno));
  }
  while (const dirent* entry = readdir(folder)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  closedir(folder);
  return names;
}

// Removes a folder and the files in it (a folder inside stays, and then so does this one).
inline void remove_folder(const std::string& path) {
  for (const std::string& name : list_folder(path)) ::unlink((path + "/" + name).c_str());
  ::rmdir(path.c_str());
}

inline bool ends_with(const std::string& text, const char* ending) {
  const size_t length = strlen(ending);
  return text.size() >= length && text.compare(text.size() - length, length, ending) == 0;
}

}  // namespace tsr
