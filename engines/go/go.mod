module codeactions

go 1.19
