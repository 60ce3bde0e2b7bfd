/* standin — one tiny static program that poses as Odoo and as PostgreSQL, for tests with many tenants.
 *
 *   standin [anything…]   listen on every port of $PORTS and answer HTTP as a finished Odoo would. Arguments are
 *                         ignored, so `odoo -c …` and `postgres -c …` just work; with --stop-after-init, or with
 *                         a sub-command of odoo (shell, db, neutralize …), it exits 0 at once, as a job does.
 *   standin health        exit 0 when the first port answers /web/health with 200
 * By the name it is called with: pg_isready asks whether the port (-p, default 5432) is open; psql, pg_dump,
 * pg_restore, initdb, sh, true, chown, cp … read their stdin to the end and succeed.
 *
 * $READY_MS delays readiness (until then /web/health is 503); GET /exit?N ends the process with status N,
 * GET /slow?MS answers late (and blocks the others: one thread on purpose). A PostgreSQL SSLRequest is answered
 * 'N' and a StartupMessage with the question for a password, so a probe of the protocol succeeds; no query does. */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 512, REQUEST_BYTES = 65536 };
struct connection { int port, have; char *in; };
static struct pollfd fds[MAX_CONNECTIONS]; /* the listeners first, then the connections */
static struct connection connections[MAX_CONNECTIONS];
static int listeners, used;
static unsigned long requests;
static long started_ms, ready_ms;

static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void drop(int i) {
    close(fds[i].fd);
    free(connections[i].in);
    used--;
    fds[i] = fds[used];
    connections[i] = connections[used];
}

/* ---- what is answered ---- */

struct answer { int code; const char *type; char body[32768]; };

#define TEXT(a, ...) snprintf((a)->body, sizeof (a)->body, __VA_ARGS__)

/* As many samples, with names and labels as long, as Odoo's module isyone_metrics gives after a day's work: what asks for this
 * page has as much to read as with a real one. The numbers never change; nobody visits a stand-in. */
static void metrics(struct answer *a) {
    static const char *const routes[] = { "web", "rpc", "login", "static", "content", "report", "health", "websocket", "jsonrpc", "other" };
    static const char *const codes[] = { "200", "303", "304", "404", "500" };
    static const char *const http[] = { "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "60.0", "+Inf" };
    static const char *const sql[] = { "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf" };
    static const char *const alone[] = { "odoo_sql_queries_total", "odoo_longpolling_connections", "odoo_login_failures_total", "odoo_cron_runs_total",
        "odoo_cron_failures_total", "odoo_cron_lag_seconds", "odoo_database_size", "odoo_active_users", "odoo_last_activity_time_seconds" };
    int n = 0, size = sizeof a->body;
#define SAY(...) (n += n < size ? snprintf(a->body + n, size - n, __VA_ARGS__) : 0)
#define EACH(i, list) for (unsigned i = 0; i < sizeof (list) / sizeof *(list); i++)
    a->type = "text/plain; version=0.0.4";
    SAY("# TYPE odoo_http_requests_total counter\n");
    EACH(r, routes) EACH(c, codes)
        SAY("odoo_http_requests_total{method=\"%s\",code=\"%s\",route=\"%s\"} %u\n", r % 3 ? "GET" : "POST", codes[c], routes[r], 1000 * r + c);
    SAY("# TYPE odoo_http_request_duration_seconds histogram\n");
    EACH(r, routes) {
        EACH(b, http) SAY("odoo_http_request_duration_seconds_bucket{route=\"%s\",le=\"%s\"} %u\n", routes[r], http[b], 100 * (b + 1));
        SAY("odoo_http_request_duration_seconds_sum{route=\"%s\"} 123.456789012\n", routes[r]);
        SAY("odoo_http_request_duration_seconds_count{route=\"%s\"} 1400\n", routes[r]);
    }
    SAY("# TYPE odoo_sql_query_duration_seconds histogram\n");
    EACH(b, sql) SAY("odoo_sql_query_duration_seconds_bucket{le=\"%s\"} %u\n", sql[b], 10000 * (b + 1));
    EACH(i, alone) SAY("# TYPE %s gauge\n%s 0\n", alone[i], alone[i]);
    SAY("# TYPE standin_requests_total counter\nstandin_requests_total %lu\n", requests);
}

static void answer_path(struct answer *a, const char *path) {
    a->code = 200;
    a->type = "text/html; charset=utf-8";
    if (!strcmp(path, "/web/health") || !strcmp(path, "/health")) {
        a->code = now_ms() - started_ms < ready_ms ? 503 : 200;
        a->type = "application/json; charset=utf-8";
        TEXT(a, "{\"status\": \"%s\"}", a->code == 200 ? "pass" : "fail");
    } else if (!strcmp(path, "/web/login")) {
        TEXT(a, "<!DOCTYPE html><html><head><title>Odoo</title></head><body><form class=\"oe_login_form\" "
                "role=\"form\" method=\"post\" action=\"/web/login\"><input type=\"text\" name=\"login\" id=\"login\"/>"
                "<input type=\"password\" name=\"password\" id=\"password\"/></form></body></html>\n");
    } else if (!strncmp(path, "/web/database", 13)) {
        a->code = 404;
        TEXT(a, "<h1>Not Found</h1>\n");
    } else if (!strcmp(path, "/jsonrpc") || !strcmp(path, "/web/session/authenticate")) {
        a->type = "application/json; charset=utf-8";
        TEXT(a, "{\"jsonrpc\": \"2.0\", \"id\": null, \"result\": %s}", path[1] == 'j' ? "2" : "{\"uid\": 2}");
    } else if (!strcmp(path, "/metrics")) {
        metrics(a);
    } else {
        TEXT(a, "stand-in for Odoo: %.1000s\n", path);
    }
}

/* Answers one complete request; 0 when the connection must be closed. */
static int reply(int fd, const char *request) {
    static struct answer a;
    char path[1024] = "/", method[16] = "", head[512], host[128] = "";
    int keep = !strcasestr(request, "\r\nconnection: close");
    sscanf(request, "%15s %1023s", method, path);
    char *query = strchr(path, '?');
    if (query) *query++ = 0;
    int number = query ? atoi(query) : 0;
    requests++;
    if (!strcmp(path, "/exit")) _exit(number);
    if (!strcmp(path, "/slow")) usleep(1000 * number);
    answer_path(&a, path);
    gethostname(host, sizeof host - 1);
    int body = strlen(a.body);
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nX-Standin: %s\r\nConnection: %s\r\n\r\n",
                     a.code, a.code == 200 ? "OK" : a.code == 404 ? "Not Found" : "Service Unavailable", a.type, body,
                     host, keep ? "keep-alive" : "close");
    if (write(fd, head, n) != n) return 0;
    if (strcmp(method, "HEAD") && write(fd, a.body, body) != body) return 0;
    return keep;
}

/* Bytes of the first complete request in `in`; 0 when more must be read. */
static int request_bytes(const char *in, int have) {
    const char *end = strstr(in, "\r\n\r\n"), *length = strcasestr(in, "\r\ncontent-length:");
    if (!end) return 0;
    int bytes = end + 4 - in;
    if (length && length < end) bytes += atoi(length + 17);
    return bytes <= have ? bytes : 0;
}

/* Reads what came on connection i and answers; 0 when the connection must be closed. */
static int serve(int i) {
    static const char ssl_request[8] = { 0, 0, 0, 8, 4, (char)0xd2, 0x16, 0x2f };
    static const char protocol_3_0[4] = { 0, 3, 0, 0 }, password[9] = { 'R', 0, 0, 0, 8, 0, 0, 0, 3 };
    struct connection *c = &connections[i];
    ssize_t n = read(fds[i].fd, c->in + c->have, REQUEST_BYTES - 1 - c->have);
    if (n <= 0) return 0;
    c->have += n;
    c->in[c->have] = 0;
    if (c->have >= 8 && !memcmp(c->in, ssl_request, 8)) {
        c->have = 0;
        return write(fds[i].fd, "N", 1) == 1;
    }
    if (c->have >= 8 && !memcmp(c->in + 4, protocol_3_0, 4)) {
        c->have = 0;
        return write(fds[i].fd, password, sizeof password) == sizeof password;
    }
    for (int bytes; (bytes = request_bytes(c->in, c->have));) {
        if (!reply(fds[i].fd, c->in)) return 0;
        c->have -= bytes;
        memmove(c->in, c->in + bytes, c->have + 1);
    }
    return c->have < REQUEST_BYTES - 1; /* too big a request */
}

/* ---- the ways to be called ---- */

static int open_port(int port) {
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s >= 0 && connect(s, (void *)&a, sizeof a)) {
        close(s);
        s = -1;
    }
    return s;
}

static int health(int port) {
    static const char request[] = "GET /web/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    char answer[64] = "";
    int s = open_port(port);
    if (s < 0 || write(s, request, sizeof request - 1) < 0 || read(s, answer, sizeof answer - 1) < 12) return 1;
    return strncmp(answer + 9, "200", 3) != 0;
}

static int pg_isready(int argc, char **argv) {
    int port = 5432;
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], "-p") || !strcmp(argv[i], "--port")) port = atoi(argv[i + 1]);
    return open_port(port) < 0 ? 2 : 0; /* 2: no response, as the real one */
}

static int job(void) {
    char buffer[4096];
    while (read(0, buffer, sizeof buffer) > 0) {}
    return 0;
}

static int is_job(const char *self, int argc, char **argv) {
    if (strcmp(self, "standin") && strcmp(self, "odoo") && strcmp(self, "postgres")) return 1;
    /* as an image's entry point it gets the program's name first: `odoo shell`, `psql -c …` */
    if (argc > 1 && argv[1][0] != '-' && !strcmp(self, "standin"))
        return is_job(argv[1], argc - 1, argv + 1);
    if (!strcmp(self, "odoo") && argc > 1 && argv[1][0] != '-' && strcmp(argv[1], "server")) return 1;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--stop-after-init") || !strcmp(argv[i], "--version")) return 1;
    return 0;
}

static int listen_on(int port) {
    int on = 1, s = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), v4 = s < 0;
    struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
    struct sockaddr_in a4 = { .sin_family = AF_INET, .sin_port = htons(port) };
    if (v4) s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if ((v4 ? bind(s, (void *)&a4, sizeof a4) : bind(s, (void *)&a6, sizeof a6)) || listen(s, 128)) return -1;
    return s;
}

static void take_connection(int listener) {
    int c = accept4(fds[listener].fd, 0, 0, SOCK_CLOEXEC);
    if (c < 0) return;
    char *in = used < MAX_CONNECTIONS ? malloc(REQUEST_BYTES) : 0;
    if (!in) {
        close(c);
        return;
    }
    struct timeval limit = { 5, 0 };
    setsockopt(c, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    connections[used] = (struct connection){ .port = connections[listener].port, .in = in };
    fds[used++] = (struct pollfd){ .fd = c, .events = POLLIN };
}

static void stop(int signal) { (void)signal; _exit(0); }

int main(int argc, char **argv) {
    const char *slash = strrchr(argv[0], '/'), *self = slash ? slash + 1 : argv[0];
    char ports[256], *rest = 0;
    snprintf(ports, sizeof ports, "%s", getenv("PORTS") ? getenv("PORTS") : "8069,8072,5432");
    if (!strcmp(self, "pg_isready")) return pg_isready(argc, argv);
    if (argc > 1 && !strcmp(argv[1], "pg_isready")) return pg_isready(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "health")) return health(atoi(ports));
    if (is_job(self, argc, argv)) return job();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, stop); /* a process with pid 1 ignores signals it has no handler for */
    signal(SIGINT, stop);
    started_ms = now_ms();
    ready_ms = getenv("READY_MS") ? atol(getenv("READY_MS")) : 0;
    for (char *p = strtok_r(ports, ", ", &rest); p && used < 16; p = strtok_r(0, ", ", &rest)) {
        int s = listen_on(atoi(p));
        if (s < 0) {
            perror(p);
            return 1;
        }
        connections[used].port = atoi(p);
        fds[used++] = (struct pollfd){ .fd = s, .events = POLLIN };
    }
    listeners = used;
    printf("standin: listening on %d ports\n", listeners);
    fflush(stdout);
    for (;;) {
        if (poll(fds, used, -1) < 0 && errno != EINTR) return 1;
        for (int i = used - 1; i >= 0; i--) {
            if (!fds[i].revents) continue;
            if (i < listeners) take_connection(i);
            else if (!serve(i)) drop(i);
        }
    }
}
