// Lets ParallelFor run on threads that are not ours.
#pragma once

#include <functional>

namespace paritrace {

// Calls work(argument) once on each of its threads, the caller among them, and returns when all have.
using Team = std::function<void(void (*work)(void*), void* argument)>;

// While it lives, ParallelFor on this thread runs on that team. nullptr or an empty one: on our own threads, as ever.
class OnTeam {
 public:
  explicit OnTeam(const Team* team);
  ~OnTeam();
  OnTeam(const OnTeam&) = delete;
  OnTeam& operator=(const OnTeam&) = delete;

 private:
  const Team* before_;
};

}  // namespace paritrace
