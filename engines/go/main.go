// The program that an action is compiled to.
package main

import (
	_ "codeactions/actions"
	"codeactions/engine"
)

func main() {
	engine.Main()
}
