module github.com/ringcast/ringcast/shared

go 1.26.0

require github.com/ringcast/ringcast/proto v0.0.0

require (
	github.com/caarlos0/env/v11 v11.4.2 // indirect
	github.com/fsnotify/fsnotify v1.10.1 // indirect
	github.com/lafikl/consistent v0.0.0-20220512074542-bdd3606bfc3e // indirect
	github.com/minio/blake2b-simd v0.0.0-20160723061019-3f5f724cb5b1 // indirect
	github.com/prometheus/client_golang v1.25.0 // indirect
	github.com/zeebo/errs v1.2.2 // indirect
	go.uber.org/goleak v1.3.0 // indirect
	go.uber.org/multierr v1.10.0 // indirect
	go.uber.org/zap v1.28.0 // indirect
	go.yaml.in/yaml/v3 v3.0.6 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	storj.io/drpc v1.0.0 // indirect
)

replace github.com/ringcast/ringcast/proto => ../proto
