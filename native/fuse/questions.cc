#include "fuse/questions.h"

#include <cerrno>
#include <utility>

namespace ckptfs::fuse {

void Questions::ask(fuse_req_t req, Question question, Reply reply) {
  question.id = ++lastId_;
  auto request = requests_.begin(req, std::make_shared<const std::string>(question.path),
                                 question.id, question.limited);
  if (!request) return;
  {
    const std::lock_guard lock(lock_);
    if (open_.size() < kMax) {
      open_.emplace(question.id, Open{std::move(request), std::move(reply)});
      request = nullptr;
    }
  }
  if (request)
    requests_.fail(*request, EBUSY);
  else
    owner_.ask(std::move(question));
}

bool Questions::answer(uint64_t id, const Answer& answer) {
  Open open;
  {
    const std::lock_guard lock(lock_);
    auto found = open_.extract(id);
    if (!found) return false;
    open = std::move(found.mapped());
  }
  if (answer.err != 0) return requests_.fail(*open.request, answer.err);
  try {
    return open.reply(*open.request, answer);
  } catch (...) {
    requests_.fail(*open.request, EIO);
    throw;
  }
}

void Questions::forget(uint64_t id) {
  decltype(open_)::node_type forgotten;  // let go of without the lock
  const std::lock_guard lock(lock_);
  forgotten = open_.extract(id);
}

}  // namespace ckptfs::fuse
