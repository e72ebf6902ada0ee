module github.com/ringcast/ringcast/topicserver

go 1.26.0

require (
	github.com/ringcast/ringcast/proto v0.0.0
	github.com/ringcast/ringcast/shared v0.0.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/prometheus/client_golang v1.25.0 // indirect
	github.com/zeebo/errs v1.2.2 // indirect
	go.uber.org/goleak v1.3.0 // indirect
	go.uber.org/multierr v1.10.0 // indirect
	go.uber.org/zap v1.28.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	storj.io/drpc v1.0.0 // indirect
)

replace (
	github.com/ringcast/ringcast/proto => ../proto
	github.com/ringcast/ringcast/shared => ../shared
)
