# Everything that this project can do is a target here: see `make help`.
SHELL := /bin/sh
.DEFAULT_GOAL := help

# What the binaries say of themselves: 0.1.0 at the tag v0.1.0.
VERSION  ?= $(patsubst v%,%,$(shell git describe --tags --match 'v[0-9]*' --always --dirty 2>/dev/null || echo dev))
REVISION ?= $(shell git rev-parse -q --verify HEAD 2>/dev/null || echo unknown)
GO       ?= go
CC       ?= cc
# Static binaries, without paths of this machine in them.
BUILD := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION) -X main.revision=$(REVISION)"
# The race detector needs a C compiler. Where there is none the tests run without
# it and say so, except in CI, where a missing tool is a failure.
RACE := $(if $(or $(CI),$(shell command -v $(CC) 2>/dev/null)),-race)
# It tries each combination of facts, in one goroutine, so it is raced in CI alone.
SLOW := /internal/diagnose$$

GOLANGCI_LINT_VERSION := v2.15.0
TOOLS := $(CURDIR)/bin/tools
GOLANGCI_LINT := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)
ACTIONLINT_VERSION := v1.7.12
ACTIONLINT := $(TOOLS)/actionlint-$(ACTIONLINT_VERSION)
# The module's version of Prometheus 3.16.0, the last one that installs with Go alone.
PROMETHEUS_VERSION := v0.316.0
PROMETHEUS := $(TOOLS)/prometheus-$(PROMETHEUS_VERSION)
PROMTOOL := $(TOOLS)/promtool-$(PROMETHEUS_VERSION)
ALERTMANAGER_VERSION := v0.31.1
ALERTMANAGER := $(TOOLS)/alertmanager-$(ALERTMANAGER_VERSION)
AMTOOL := $(TOOLS)/amtool-$(ALERTMANAGER_VERSION)
HELM_VERSION := v3.22.0
HELM := $(TOOLS)/helm-$(HELM_VERSION)
CRANE_VERSION := v0.22.1
CRANE := $(TOOLS)/crane-$(CRANE_VERSION)
KUBECONFORM_VERSION := v0.8.0
KUBECONFORM := $(TOOLS)/kubeconform-$(KUBECONFORM_VERSION)

AXE := test/e2e/web/node_modules/.package-lock.json
# $(call need,COMMAND,PACKAGES) installs Debian's packages in CI, and tells others which.
need = command -v $(1) >/dev/null || { [ -n "$(CI)" ] && [ "$$(id -u)" = 0 ] && apt-get update && apt-get install -y --no-install-recommends $(2); } || \
	{ echo "make $@: $(1) is missing; on Debian: apt-get install $(2)" >&2; exit 1; }

# What `make image` and `make image-tar` name their image, as the manifests ask for it;
# for which nodes `make image` builds it, whatever the machine at hand is, and with what.
IMAGE_REPOSITORY ?= ghcr.io/workload-identity-exporter/workload-identity-exporter
IMAGE    ?= $(IMAGE_REPOSITORY):$(shell sed -n 's/^appVersion: //p' deploy/chart/Chart.yaml)
PLATFORM ?= linux/amd64
ENGINE ?= $(firstword $(foreach e,docker podman buildah,$(if $(shell command -v $(e) 2>/dev/null),$(e))))
# The exporter's user, and the bytes that its image may have.
IMAGE_MAX := 18000000
EXPORTER := -user 65532:65532 -max $(IMAGE_MAX) -with LICENSE=$(CURDIR)/LICENSE -with THIRD_PARTY_LICENSES=$(CURDIR)/third_party/LICENSES
# $(call pack,NAME,TAG,FLAGS,ARCHITECTURE=BINARY...) packs static binaries into bin/images/NAME.tar.
pack = cd tools && $(GO) run ./release image -tag $(2) -version $(VERSION) -revision $(REVISION) $(3) -out $(CURDIR)/bin/images/$(1).tar $(foreach b,$(4),$(subst =,=$(CURDIR)/,$(b)))
# $(call pack-test,NAME,BINARY,FLAGS) packs one for the machine at hand, as the suites know it.
pack-test = $(call pack,$(1),workload-identity-exporter.local/$(1):test,$(3),$$($(GO) env GOARCH)=$(2))

# make fuzz does 1/FUZZ_SHARE of the executions, of FUZZ_TARGET alone if it is set.
FUZZ_SHARE ?= 1
PLUGINS := $(foreach system,linux darwin windows,$(foreach architecture,amd64 arm64,bin/plugin/$(system)_$(architecture)))
.PHONY: help build plugin plugins $(PLUGINS) image image-tar release reproduce demo test test-alerts test-tools faults soak verify lint generate bench bench-prometheus bench-apiserver bench-metadata flame fuzz e2e-datapath e2e-cluster e2e-scrape e2e-page e2e-dashboards e2e-pressure e2e-web pictures pictures-dashboards chromium clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the exporter and the simulator into bin/
	$(BUILD) -o bin/ ./cmd/workload-identity-exporter ./cmd/gke-metadata-simulator

plugin: ## Build the plugin into bin/, where kubectl finds it as `kubectl workload-identity` if that is in PATH
	$(BUILD) -o bin/kubectl-workload_identity ./cmd/kubectl-workload-identity
	cp cmd/kubectl-workload-identity/kubectl_complete-workload_identity bin/

image: ## Build the image for PLATFORM with docker, podman or buildah (ENGINE), named IMAGE
	@[ -n "$(ENGINE)" ] || { echo "make image: none of docker, podman and buildah is here; make image-tar needs none" >&2; exit 1; }
	$(ENGINE) build --platform $(PLATFORM) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) -t $(IMAGE) .

plugins: $(PLUGINS) ## Build it for each system that a release is for, into bin/plugin/

$(PLUGINS): bin/plugin/%:
	GOOS=$(word 1,$(subst _, ,$*)) GOARCH=$(word 2,$(subst _, ,$*)) $(BUILD) -o $@/kubectl-workload_identity$(if $(findstring windows,$*),.exe) ./cmd/kubectl-workload-identity

image-tar: ## Pack the same for amd64 and arm64 into bin/images/workload-identity-exporter.tar, an OCI archive, without an engine
	GOOS=linux GOARCH=amd64 $(BUILD) -o bin/linux-amd64/ ./cmd/workload-identity-exporter
	GOOS=linux GOARCH=arm64 $(BUILD) -o bin/linux-arm64/ ./cmd/workload-identity-exporter
	$(call pack,workload-identity-exporter,$(IMAGE),$(EXPORTER),amd64=bin/linux-amd64/workload-identity-exporter arm64=bin/linux-arm64/workload-identity-exporter)

release: ## Make the files of a release in dist/, of the tag at this commit, with its image at IMAGE_REPOSITORY; DRY_RUN=1 for any commit
	cd tools && $(GO) run ./release -root $(CURDIR) -out $(CURDIR)/dist -max $(IMAGE_MAX) -repository $(IMAGE_REPOSITORY) $(if $(TAG),-tag $(TAG)) $(if $(DRY_RUN),-dry-run=$(DRY_RUN))

reproduce: ## Build the binary twice, at two places and without a cache, and compare
	@GO="$(GO)" VERSION="$(VERSION)" REVISION="$(REVISION)" sh tools/reproduce.sh

demo: build ## Run the exporter against the simulator until Ctrl-C
	@sh tools/demo.sh

# vet and test have the same flags, so that a package is compiled once for both.
test: build ## Test the exporter, the simulator, the demo and the docs (with the race detector if there is a C compiler)
	@$(if $(RACE),,echo "make test: no C compiler, so the race detector is off" >&2;) $(GO) vet $(RACE) ./...
	$(GO) test $(RACE) $$($(GO) list ./cmd/... ./internal/... | grep -v '$(SLOW)') ./docs
	$(GO) test $(if $(CI),$(RACE)) ./internal/diagnose
	@# These build and run binaries, which the test cache does not know of.
	$(GO) test $(RACE) -count=1 ./test/...

# The test cache does not know of the files of other modules.
test-alerts: $(PROMTOOL) $(AMTOOL) ## Test the alert rules with promtool, and the Alertmanager example with amtool
	cd tools && $(GO) vet ./rules && PROMTOOL=$(PROMTOOL) $(GO) test -count=1 ./rules
	$(PROMTOOL) check rules --lint=all --lint-fatal alerts/workload-identity.rules.yaml
	sed '1,/^spec:/d; s/^  //' deploy/kustomize/overlays/gmp/clusterrules.yaml >bin/clusterrules.yaml
	$(PROMTOOL) check rules --lint=all --lint-fatal bin/clusterrules.yaml
	$(PROMTOOL) test rules alerts/tests/*.test.yaml
	AMTOOL=$(AMTOOL) sh alerts/tests/alertmanager.sh

test-tools: $(HELM) $(CRANE) ## Test the dashboards, the chart, the manifests and the release
	cd tools && $(GO) vet ./... && HELM=$(HELM) CRANE=$(CRANE) $(GO) test -count=1 -timeout 20m $$($(GO) list ./... | grep -v /rules$$)

faults: ## Do to the exporter what servers, clients, files and the kernel should not (5 minutes); UPDATE=1 writes docs/faults.md
	$(GO) vet ./test/faults && $(GO) test -count=1 -timeout 20m ./test/faults -faults $(if $(UPDATE),-update)

soak: ## Let all change at once for SOAK (20m), and see that nothing grows and nothing is miscounted
	$(GO) vet ./test/faults && $(GO) test -count=1 -timeout 60m -v -run 'TestSoak$$' ./test/faults -soak $(or $(SOAK),20m)

e2e-datapath: ## Prove the exporter in network namespaces with the kernel's NAT (Linux; root only for its eBPF part)
	cd test/e2e && $(GO) vet ./... && $(GO) test -count=1 -timeout 10m ./datapath

e2e-cluster: build plugin $(HELM) $(KUBECONFORM) ## Prove the manifests, the image and internal/kube in the test cluster that KUBECONFIG names (images get there by E2E_LOAD_IMAGE)
	cd test/e2e && $(GO) vet ./... && CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o ../../bin/e2e-node ./cluster/node
	$(call pack-test,exporter,bin/workload-identity-exporter,$(EXPORTER))
	$(call pack-test,e2e-node,bin/e2e-node,-user 0:0)
	cd tools && $(GO) run ./deploy -render $(CURDIR)/bin/deploy
	cd test/e2e && HELM=$(HELM) KUBECONFORM=$(KUBECONFORM) $(GO) test -count=1 -timeout 25m -v ./cluster

e2e-scrape: build $(HELM) $(PROMETHEUS) ## Prove that a Prometheus in the test cluster of KUBECONFIG finds the agents of all that is shipped, and pages
	cd test/e2e && $(GO) vet ./... && CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o ../../bin/e2e-node ./cluster/node
	cd test/e2e/scrape/operator && $(GO) vet ./... && $(GO) build -o ../../../../bin/e2e-operator .
	$(call pack-test,exporter,bin/workload-identity-exporter,$(EXPORTER))
	$(call pack-test,e2e-node,bin/e2e-node,-user 0:0)
	$(call pack-test,prometheus,$(PROMETHEUS:$(CURDIR)/%=%),-user 0:0)
	cd tools && $(GO) run ./deploy -render $(CURDIR)/bin/deploy
	cd test/e2e && HELM=$(HELM) OPERATOR=$(CURDIR)/bin/e2e-operator $(GO) test -count=1 -timeout 10m -parallel 32 -v ./scrape

e2e-page: $(PROMETHEUS) $(ALERTMANAGER) ## Prove that a page comes within 60 seconds, by a real Prometheus and Alertmanager
	cd test/e2e && $(GO) vet ./... && PROMETHEUS=$(PROMETHEUS) ALERTMANAGER=$(ALERTMANAGER) $(GO) test -count=1 -timeout 40m -v ./page

e2e-dashboards: $(PROMETHEUS) ## Ask every query of the dashboards, on real agents in every state
	cd test/e2e && $(GO) vet ./... && PROMETHEUS=$(PROMETHEUS) $(GO) test -count=1 -timeout 15m -v ./dashboards

e2e-pressure: ## Attack the agent's HTTP server, each way for PRESSURE (30s), and see what is left for Prometheus
	cd test/e2e && $(GO) vet ./... && $(GO) test -count=1 -timeout 40m -v ./pressure

e2e-web: chromium $(AXE) ## Look at the status page with Chromium in every state, and with the accessibility rules of axe
	cd test/e2e && $(GO) vet ./... && $(GO) test -count=1 -timeout 10m -v ./web

pictures: chromium $(AXE) ## Take the pictures of the status page in docs/images/status again
	cd test/e2e && $(GO) test -count=1 -timeout 10m ./web -update

pictures-dashboards: chromium ## Take the pictures of dashboards in docs/images from the Grafana at URL, of CLUSTER and NODE
	cd test/e2e && $(GO) run ./dashboards/pictures -grafana "$(URL)" -cluster "$(CLUSTER)" -node "$(NODE)"

verify: ## Compare the modules on the machine with the hashes in go.sum
	for module in . tools test/e2e test/e2e/scrape/operator; do (cd $$module && $(GO) mod verify) || exit 1; done

lint: verify $(GOLANGCI_LINT) $(ACTIONLINT) ## Check the code with golangci-lint, and the workflow with actionlint
	$(GOLANGCI_LINT) run --allow-serial-runners ./...
	cd test/e2e && $(GOLANGCI_LINT) run --allow-serial-runners ./...
	cd test/e2e/scrape/operator && $(GOLANGCI_LINT) run --allow-serial-runners ./...
	cd tools && $(GOLANGCI_LINT) run --allow-serial-runners ./...
	$(ACTIONLINT) .github/workflows/*.yaml

generate: ## Render the alert rules and dashboards, and write the generated parts of the chart, docs/ and README.md again
	cd tools && $(GO) run ./rules && $(GO) run ./dashboards && $(GO) run ./deploy
	cd tools && $(GO) run ./release licenses >$(CURDIR)/bin/licenses && mv $(CURDIR)/bin/licenses $(CURDIR)/third_party/LICENSES
	$(GO) test ./docs -update
	cd tools && $(GO) test -count=1 ./rules -run TestWhatTheOnCallReads -update

bench-prometheus: $(PROMETHEUS) $(ALERTMANAGER) ## Have Prometheus evaluate the rules of up to 65,000 nodes, answer each query of the dashboards on 15,000, and page when all fail (three hours; BENCH=Rules/paging, BENCH=Groups or BENCH=AllNodesFail chooses)
	cd test/e2e && PICTURE=$(CURDIR)/docs/images/rules.svg PROMETHEUS=$(PROMETHEUS) ALERTMANAGER=$(ALERTMANAGER) $(GO) test -p 1 -run '^$$' -bench '$(or $(BENCH),.)' -benchtime 1x -timeout 4h ./dashboards ./page

bench-metadata: build ## Count what the exporter asks of a metadata server, well and throttled (5 minutes)
	$(GO) run ./test/bench -metadata

bench-apiserver: ## Run 1,500 agents against the API server of the test cluster that KUBECONFIG names, and draw what they ask for (70 minutes; RESTART='COMMAND' restarts the server; AGENTS=15000 needs ulimit -n 40000 and cores)
	cd test/e2e && $(GO) run ./apiserver -agents $(or $(AGENTS),1500) -restart '$(RESTART)' -picture $(CURDIR)/docs/images/api-server.svg

flame: ## Draw where the CPU of a probe and of a scrape goes, as docs/images/flame.svg (a minute)
	cd test/e2e && $(GO) run ./flame -picture $(CURDIR)/docs/images/flame.svg

bench: build ## Measure memory, CPU and scrapes beside the floor program and Prometheus's blackbox exporter (2 minutes)
	@$(call need,prometheus-blackbox-exporter,prometheus-blackbox-exporter)
	$(BUILD) -o bin/ ./test/bench/floor
	$(GO) run ./test/bench

fuzz: ## Fuzz each parser of foreign bytes 1,000,000 times, and the bytes of answers against the whole agent 50,000 times (FUZZ_SHARE=10: a tenth)
	@GO="$(GO)" FUZZ_SHARE=$(FUZZ_SHARE) FUZZ_TARGET=$(FUZZ_TARGET) sh tools/fuzz.sh

clean: ## Remove what was built
	rm -rf bin dist

# Without a font the text of a page is not there to be seen.
chromium:
	@$(call need,chromium,chromium fonts-dejavu-core)

$(AXE): test/e2e/web/package-lock.json
	@$(call need,npm,npm)
	cd test/e2e/web && npm ci

# Each tool is installed once for each version, with its own module's pinned dependencies.
$(GOLANGCI_LINT):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	@mv $(TOOLS)/golangci-lint $@

$(ACTIONLINT):
	@mkdir -p $(TOOLS)
	CGO_ENABLED=0 GOBIN=$(TOOLS) $(GO) install -ldflags "-s -w" github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT_VERSION)
	@mv $(TOOLS)/actionlint $@

# Without service discoveries that nobody needs here: one of them asks for a
# module that is not published everywhere.
$(PROMTOOL): $(PROMETHEUS)
$(PROMETHEUS):
	@mkdir -p $(TOOLS)
	CGO_ENABLED=0 GOBIN=$(TOOLS) $(GO) install -tags remove_all_sd,enable_kubernetes_sd,enable_dns_sd \
		-ldflags "-s -w -X github.com/prometheus/common/version.Version=3.16.0" \
		github.com/prometheus/prometheus/cmd/prometheus@$(PROMETHEUS_VERSION) github.com/prometheus/prometheus/cmd/promtool@$(PROMETHEUS_VERSION)
	@mv $(TOOLS)/promtool $(PROMTOOL) && mv $(TOOLS)/prometheus $(PROMETHEUS)

$(AMTOOL): $(ALERTMANAGER)
$(ALERTMANAGER):
	@mkdir -p $(TOOLS)
	CGO_ENABLED=0 GOBIN=$(TOOLS) $(GO) install -ldflags "-s -w" \
		github.com/prometheus/alertmanager/cmd/alertmanager@$(ALERTMANAGER_VERSION) github.com/prometheus/alertmanager/cmd/amtool@$(ALERTMANAGER_VERSION)
	@mv $(TOOLS)/amtool $(AMTOOL) && mv $(TOOLS)/alertmanager $(ALERTMANAGER)

$(HELM):
	@mkdir -p $(TOOLS)
	CGO_ENABLED=0 GOBIN=$(TOOLS) $(GO) install -ldflags "-s -w" helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)
	@mv $(TOOLS)/helm $@

$(CRANE):
	@mkdir -p $(TOOLS)
	CGO_ENABLED=0 GOBIN=$(TOOLS) $(GO) install -ldflags "-s -w" github.com/google/go-containerregistry/cmd/crane@$(CRANE_VERSION)
	@mv $(TOOLS)/crane $@

$(KUBECONFORM):
	@mkdir -p $(TOOLS)
	CGO_ENABLED=0 GOBIN=$(TOOLS) $(GO) install -ldflags "-s -w" github.com/yannh/kubeconform/cmd/kubeconform@$(KUBECONFORM_VERSION)
	@mv $(TOOLS)/kubeconform $@
