# The image: one static binary and nothing else. `make image` builds it with docker,
# podman or buildah, and `make image-tar` makes the same without any of them.
ARG GO_VERSION=1.26
# Go runs where the build does, and compiles for where the image will run.
FROM --platform=$BUILDPLATFORM golang:${GO_VERSION} AS build
WORKDIR /src
COPY go.mod go.sum ./
COPY third_party/conntrack third_party/conntrack
RUN go mod download
COPY cmd cmd
COPY internal internal
ARG VERSION=dev
ARG REVISION=unknown
ARG TARGETOS
ARG TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.version=$VERSION -X main.revision=$REVISION" \
    -o /workload-identity-exporter ./cmd/workload-identity-exporter

FROM scratch
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="workload-identity-exporter" \
      org.opencontainers.image.description="Watches which Google identity Pods on a GKE node really get" \
      org.opencontainers.image.source="https://github.com/workload-identity-exporter/workload-identity-exporter" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /workload-identity-exporter /workload-identity-exporter
COPY LICENSE /LICENSE
COPY third_party/LICENSES /THIRD_PARTY_LICENSES
USER 65532:65532
EXPOSE 10988
ENTRYPOINT ["/workload-identity-exporter"]
