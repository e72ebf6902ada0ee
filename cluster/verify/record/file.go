package record

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// suffix is that of an actor's file.
const suffix = ".jsonl"

// maxLine bounds one line that Read accepts, in bytes.
const maxLine = 1 << 20

// Save writes every actor's records to DIR/ACTOR.jsonl.
func (l *Log) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save records: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.actors {
		if err := a.save(filepath.Join(dir, a.name+suffix)); err != nil {
			return fmt.Errorf("save records of %s: %w", a.name, err)
		}
	}
	return nil
}

func (a *Actor) save(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	a.mu.Lock()
	defer a.mu.Unlock()
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	for i := range a.records {
		if err := enc.Encode(&a.records[i]); err != nil {
			return err
		}
	}
	return w.Flush()
}

// Load reads every *.jsonl file of a directory and returns the records in the order of their times.
func Load(dir string) ([]Record, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		return nil, fmt.Errorf("load records: %w", err)
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("load records: no *%s file in %s", suffix, dir)
	}
	var all []Record
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("load records: %w", err)
		}
		records, err := Read(f)
		_ = f.Close() // it was only read
		if err != nil {
			return nil, fmt.Errorf("load records: %s: %w", path, err)
		}
		all = append(all, records...)
	}
	Sort(all)
	return all, nil
}

// Read reads one actor's records. An error names the line.
func Read(r io.Reader) ([]Record, error) {
	var records []Record
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	n := 0
	for lines.Scan() {
		n++
		var rec Record
		if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if rec.Kind == "" || rec.Actor == "" {
			return nil, fmt.Errorf("line %d: a record needs an actor and a kind", n)
		}
		records = append(records, rec)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	return records, nil
}
