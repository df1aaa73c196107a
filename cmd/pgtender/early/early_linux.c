//go:build linux && cgo

// See early.go for what this is for, and backup/archive/agent/early for what is said.
// Whatever is not as it should be has pgtender_early return: then the program goes on as
// if nothing had been.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

// The constants of the agent's side are there.
enum {
	MAX_HINT = 16 << 10,
	MAX_CONFIG = 128 << 10,   // it is sent
	MAX_QUESTION = 256 << 10,
	MAX_HEADER = 64,
	MAX_ANSWER = 64 << 10,
	MAX_PATH = PATH_MAX,
	SEGMENT_NAME = 24,
	CONNECT_MS = 250,
	SILENCE_MS = 3000,
	PATIENCE_MS = 60000,
};

#define BEAT "beat\n"
#define DONE_WORD "done "

static const char hint_magic[] = "pgtender-agent 1\n";
static const char *const hint_files[] = {".pgtender-agent", ".pgtender-spool/.pgtender-agent"};

// Memory that is never touched costs nothing, and nothing of it is in use later.
static char question[MAX_HEADER + MAX_QUESTION];
static char answer[2 * MAX_ANSWER];
static char hint[MAX_HINT + 1];

// An errand is what a command is there for.
struct errand {
	bool get; // archive-get of a recovering server, else archive-push; of a whole segment
	const char *segment; // its name, SEGMENT_NAME bytes
	const char *path;    // where it lies, or is to be put
	size_t folder;       // bytes of path up to its last slash, with it
};

static bool has_prefix(const char *s, const char *prefix) { return strncmp(s, prefix, strlen(prefix)) == 0; }

static size_t folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash == NULL ? 0 : (size_t) (slash + 1 - path);
}

// is_segment: XLogFileName, xlog_internal.h.
static bool is_segment(const char *name)
{
	return strlen(name) == SEGMENT_NAME && strspn(name, "0123456789ABCDEF") == SEGMENT_NAME;
}

static bool among(char **args, int n, const char *word)
{
	for (int i = 0; i < n; i++)
		if (strcmp(args[i], word) == 0)
			return true;
	return false;
}

// find_errand is ErrandOf in backup/archive/agent/early: the agent judges the rest.
static bool find_errand(struct errand *e, char **args, int n)
{
	const char *name;

	if (n < 2 || has_prefix(args[n - 1], "-"))
		return false;
	e->path = args[n - 1];
	e->folder = folder_of(e->path);
	name = e->path + e->folder;
	e->get = strcmp(name, "RECOVERYXLOG") == 0;
	e->segment = e->get ? args[n - 2] : name;
	if (!is_segment(e->segment))
		return false;
	return e->get ? among(args, n - 2, "archive-get") : among(args, n - 1, "archive-push");
}

// read_file gives how many bytes a regular file of at most limit has, which buf has room
// for and one more; -1: it cannot be read, or has more.
static ssize_t read_file(const char *path, char *buf, size_t limit)
{
	size_t n = 0;
	ssize_t got = -1;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a pipe would wait

	if (fd < 0)
		return -1;
	while (n <= limit) {
		got = read(fd, buf + n, limit + 1 - n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		n += got;
	}
	close(fd);
	return got == 0 ? (ssize_t) n : -1;
}

// read_hint gives what the agent left: its socket and its configuration file.
static bool read_hint(const char *path, const char **socket_name, const char **config)
{
	char *line, *end;
	ssize_t n = read_file(path, hint, MAX_HINT);

	if (n < 0 || memchr(hint, 0, n) != NULL)
		return false;
	hint[n] = 0;
	if (!has_prefix(hint, hint_magic))
		return false;
	line = hint + strlen(hint_magic);
	if ((end = strchr(line, '\n')) == NULL || end == line)
		return false;
	*end = 0;
	*socket_name = line;
	line = end + 1;
	if ((end = strchr(line, '\n')) == NULL || end == line || end[1] != 0)
		return false;
	*end = 0;
	*config = line;
	return true;
}

// room gives the bytes of the question from end on.
static size_t room(const char *end) { return question + sizeof(question) - end; }

// put writes a record of the question, and gives its end; NULL: there is no room, or was
// none before.
static char *put(char *end, char kind, const char *text)
{
	size_t n = strlen(text) + 1;

	if (end == NULL || 1 + n > room(end))
		return NULL;
	*end = kind;
	memcpy(end + 1, text, n);
	return end + 1 + n;
}

// put_file is put with a file's content. NULL also: it cannot be read, or sent.
static char *put_file(char *end, char kind, const char *path)
{
	ssize_t n;

	if (end == NULL || 1 + MAX_CONFIG + 1 > room(end))
		return NULL;
	n = read_file(path, end + 1, MAX_CONFIG);
	if (n < 0 || memchr(end + 1, 0, n) != NULL)
		return NULL;
	*end = kind;
	end[1 + n] = 0;
	return end + 1 + n + 1;
}

// write_question gives the message, whose length is *length; NULL: none can be sent.
static const char *write_question(char **args, int n, char **environ, const char *config, size_t *length)
{
	static char dir[MAX_PATH];
	char header[MAX_HEADER];
	char *const body = question + MAX_HEADER;
	char *end = body;
	int header_length;

	if (getcwd(dir, sizeof(dir)) == NULL || dir[0] != '/')
		return NULL;
	end = put(end, 'd', dir);
	end = put(end, 'c', config);
	end = put_file(end, 'f', config);
	for (int i = 0; i < n; i++)
		end = put(end, 'a', args[i]);
	for (; *environ != NULL; environ++)
		if (has_prefix(*environ, "PGTENDER_"))
			end = put(end, 'e', *environ);
	if (end == NULL)
		return NULL;
	header_length = snprintf(header, sizeof(header), "pgtender early 1 %zu\n", (size_t) (end - body));
	*length = header_length + (end - body);
	return memcpy(body - header_length, header, header_length);
}

static bool set_timeout(int fd, int which, int ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	return setsockopt(fd, SOL_SOCKET, which, &tv, sizeof(tv)) == 0;
}

// dial connects to an agent, of this user or of root, as the agent's client does.
static int dial(const char *name)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	struct ucred peer;
	socklen_t length = sizeof(peer);
	size_t n = strlen(name);
	int fd;

	if (n >= sizeof(to.sun_path))
		return -1;
	memcpy(to.sun_path, name, n);
	if (name[0] == '@')
		to.sun_path[0] = 0; // it has no file, unix(7), and no zero byte at its end
	else
		n++;
	if ((fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0)
		return -1;
	// What bounds sending bounds connect(2) too, see socket(7).
	if (set_timeout(fd, SO_SNDTIMEO, CONNECT_MS) && set_timeout(fd, SO_RCVTIMEO, SILENCE_MS)
		&& connect(fd, (struct sockaddr *) &to, offsetof(struct sockaddr_un, sun_path) + n) == 0
		&& getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0
		&& (peer.uid == 0 || peer.uid == geteuid()))
		return fd;
	close(fd);
	return -1;
}

// send_all: MSG_NOSIGNAL, as that the agent is gone is no reason to die.
static bool send_all(int fd, const char *b, size_t n)
{
	while (n > 0) {
		ssize_t sent = send(fd, b, n, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return false;
		b += sent;
		n -= sent;
	}
	return true;
}

// said is a whole answer.
struct said {
	const char *what; // the segment that is archived, or the file that holds the one asked for
	const char *log;  // for the standard error
	size_t what_length, log_length;
};

enum verdict { BAD, UNFINISHED, FINISHED };

// parse looks at the n bytes that have come so far.
static enum verdict parse(const char *b, size_t n, struct said *s)
{
	const char *line_end, *space;
	size_t number = 0;

	while (n >= strlen(BEAT) && memcmp(b, BEAT, strlen(BEAT)) == 0) {
		b += strlen(BEAT);
		n -= strlen(BEAT);
	}
	if (n > MAX_ANSWER)
		return BAD;
	if ((line_end = memchr(b, '\n', n)) == NULL)
		return UNFINISHED;
	if ((size_t) (line_end - b) < strlen(DONE_WORD) || memcmp(b, DONE_WORD, strlen(DONE_WORD)) != 0)
		return BAD;
	s->what = b + strlen(DONE_WORD);
	if ((space = memchr(s->what, ' ', line_end - s->what)) == NULL || space == s->what)
		return BAD;
	s->what_length = space - s->what;
	if (space + 1 == line_end || (space[1] == '0' && space + 2 != line_end))
		return BAD;
	for (const char *digit = space + 1; digit < line_end; digit++) {
		if (*digit < '0' || *digit > '9')
			return BAD;
		if ((number = 10 * number + (*digit - '0')) > MAX_ANSWER)
			return BAD;
	}
	s->log = line_end + 1;
	s->log_length = b + n - s->log;
	if (s->log_length > number)
		return BAD;
	return s->log_length == number ? FINISHED : UNFINISHED;
}

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000L + t.tv_nsec / 1000000;
}

// await reads until there is an answer, the agent is silent or patience is over.
static bool await(int fd, struct said *s)
{
	long until = now_ms() + PATIENCE_MS;
	size_t n = 0;

	while (n < sizeof(answer)) {
		enum verdict v;
		ssize_t got = recv(fd, answer + n, sizeof(answer) - n, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		n += got;
		if ((v = parse(answer, n, s)) != UNFINISHED)
			return v == FINISHED;
		if (now_ms() > until)
			return false;
	}
	return false;
}

// take moves the file that the agent named to where the segment is to be put: one of that
// segment, below the folder of that place. What the server could not read, for the agent
// is root's, is not taken.
static bool take(const struct errand *e, const struct said *s)
{
	static char from[MAX_PATH];
	struct stat st;
	size_t name;

	if (e->folder + s->what_length >= sizeof(from) || memchr(s->what, 0, s->what_length) != NULL)
		return false;
	memcpy(from, e->path, e->folder);
	memcpy(from + e->folder, s->what, s->what_length);
	from[e->folder + s->what_length] = 0;
	name = e->folder + folder_of(from + e->folder);
	if (from[e->folder] == '/' || strstr(from + e->folder, "..") != NULL
		|| strncmp(from + name, e->segment, SEGMENT_NAME) != 0 || from[name + SEGMENT_NAME] != '~')
		return false;
	return lstat(from, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() && rename(from, e->path) == 0;
}

// ask has one agent do the errand.
static bool ask(const struct errand *e, const char *hint_file, char **args, int n, char **environ, struct said *s)
{
	static char path[MAX_PATH];
	const char *name, *config, *message;
	size_t length;
	bool done;
	int fd;

	if (e->folder + strlen(hint_file) >= sizeof(path))
		return false;
	memcpy(path, e->path, e->folder);
	strcpy(path + e->folder, hint_file);
	if (!read_hint(path, &name, &config) || (message = write_question(args, n, environ, config, &length)) == NULL
		|| (fd = dial(name)) < 0)
		return false;
	done = send_all(fd, message, length) && await(fd, s);
	close(fd);
	if (!done)
		return false;
	if (e->get)
		return take(e, s);
	return s->what_length == SEGMENT_NAME && memcmp(s->what, e->segment, SEGMENT_NAME) == 0;
}

// stop ends the program as main does (exit.go), for which PostgreSQL takes it for stopped.
static void stop(int signal) { _exit(128 + signal); }

static void say(const char *b, size_t n)
{
	while (n > 0) {
		ssize_t wrote = write(STDERR_FILENO, b, n);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote < 0)
			return; // there is nobody else to tell
		b += wrote;
		n -= wrote;
	}
}

#ifdef __GLIBC__ // others give a constructor no arguments
__attribute__((constructor))
#endif
void pgtender_early(int argc, char **argv, char **environ)
{
	struct sigaction on_quit = {.sa_handler = stop}, before;
	struct errand e;
	struct said s;

	if (argc < 1 || !find_errand(&e, argv + 1, argc - 1) || sigaction(SIGQUIT, &on_quit, &before) != 0)
		return;
	for (int i = 0; i < (e.get ? 2 : 1); i++)
		if (ask(&e, hint_files[i], argv + 1, argc - 1, environ, &s)) {
			say(s.log, s.log_length);
			_exit(0);
		}
	sigaction(SIGQUIT, &before, NULL);
}
