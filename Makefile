# make demo   see pgtender work on a real three-node Patroni cluster
# make test   everything, with all the set-up; make unit needs no services
GO ?= go

.PHONY: build unit test servers demo lint fuzz bench soak clean

# grpcnotrace leaves out what nobody looks at: archive_command starts the program
# once for each segment, and then each millisecond of its start counts.
build:
	$(GO) build -tags grpcnotrace -o bin/pgtender ./cmd/pgtender

unit:
	$(GO) test -short ./...

servers:
	$(GO) run ./e2e/setup --yes

# Much of a test is waiting for servers, so more packages run at once than there are
# processors, and those that take longest begin first: none is left to wait alone at the
# end. The race detector would have each process pause for a second before it exits, and
# a test program is an archive_command, too.
test: servers build
	GORACE=atexit_sleep_ms=0 $(GO) test -race -p $$(($$(nproc) + 2)) -timeout 60m ./e2e ./backup ./catchup ./...

demo: build
	$(GO) run ./e2e/demo

lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "not gofmt-ed: $$unformatted"; exit 1; }
	$(GO) vet ./...
	GOOS=darwin CGO_ENABLED=0 $(GO) vet $$($(GO) list ./... | grep -v /e2e)
	$(GO) test ./internal/arch

fuzz:
	$(GO) run ./e2e/fuzz $(FUZZTIME)

bench: servers build
	$(GO) run ./e2e/bench

soak: servers build
	mkdir -p .cache
	PGTENDER_SOAK=1 PGTENDER_SOAK_DIR=$${PGTENDER_SOAK_DIR:-$${PGTENDER_CACHE:-$(CURDIR)/.cache}} $(GO) test -timeout 0 -run Soak ./...

clean:
	$(GO) run ./e2e/setup --remove
	rm -rf bin .cache
