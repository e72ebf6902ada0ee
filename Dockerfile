# Three images from one build: gateway, topicserver, and ringcast, the command for operators.
#
#   docker build --target gateway -t ringcast/gateway .
#
# Each holds one static binary and nothing else: no shell, no package manager, no user database.
FROM golang:1.26 AS build
# Where modules come from; empty means what Go does by default.
ARG GOPROXY=
ARG GOSUMDB=
ENV CGO_ENABLED=0 GOWORK=off GOFLAGS=-buildvcs=false
WORKDIR /src

# Modules change less often than sources: as long as these files stay, the downloaded ones come from the layer cache.
# cluster is left out, for most of what its go.mod names serves its tests; the build fetches the rest of what it needs.
COPY proto/go.mod proto/go.sum proto/
COPY shared/go.mod shared/go.sum shared/
COPY topicserver/go.mod topicserver/go.sum topicserver/
COPY gateway/go.mod gateway/go.sum gateway/
COPY client/go.mod client/go.sum client/
RUN for module in topicserver gateway client; do (cd $module && go mod download) || exit 1; done
# The largest of them are compiled here, once, and come from the layer cache too.
RUN cd gateway && go build -trimpath go.uber.org/zap storj.io/drpc/drpcconn \
    github.com/prometheus/client_golang/prometheus/promhttp \
    github.com/gofiber/fiber/v2 github.com/gofiber/contrib/websocket

# A change of one service leaves those above it as they are.
COPY proto proto
COPY shared shared
COPY topicserver topicserver
RUN cd topicserver && go build -trimpath -ldflags "-s -w" -o /out/topicserver ./cmd/topicserver
COPY gateway gateway
RUN cd gateway && go build -trimpath -ldflags "-s -w" -o /out/gateway ./cmd/gateway
COPY client client
COPY cluster cluster
RUN cd cluster && go build -trimpath -ldflags "-s -w" -o /out/ringcast ./cmd/ringcast

FROM scratch AS topicserver
COPY --from=build /out/topicserver /topicserver
USER 65532:65532
EXPOSE 7101
ENTRYPOINT ["/topicserver"]

FROM scratch AS gateway
COPY --from=build /out/gateway /gateway
USER 65532:65532
EXPOSE 4000
ENTRYPOINT ["/gateway"]

FROM scratch AS ringcast
COPY --from=build /out/ringcast /ringcast
USER 65532:65532
ENTRYPOINT ["/ringcast"]
