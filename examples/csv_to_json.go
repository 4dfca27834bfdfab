// Takes CSV in the body, first line the names, and returns a JSON array of objects.
package actions

import (
	"encoding/csv"
	"fmt"
	"strings"
)

func Run(engine *Engine) error {
	lines, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(engine.Body, "\ufeff"))).ReadAll()
	if err != nil {
		return err
	}
	if len(lines) == 0 {
		engine.Result.Set("the body must be CSV with a line of names", StatusCode(400))
		return nil
	}
	rows := []map[string]string{}
	for _, fields := range lines[1:] {
		row := map[string]string{}
		for index, name := range lines[0] {
			row[name] = fields[index]
		}
		rows = append(rows, row)
	}
	engine.Log.Info(fmt.Sprintf("%d rows of %s", len(rows), strings.Join(lines[0], ", ")))
	engine.Result.Set(rows, ContentType("json"))
	return nil
}
