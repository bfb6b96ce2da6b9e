output "function_name" {
  description = "The function, to invoke it by hand"
  value       = aws_lambda_function.this.function_name
}

output "function_arn" {
  description = "The function, for a schedule of your own"
  value       = aws_lambda_function.this.arn
}

output "role_arn" {
  description = "The role with which the function acts, and with which a schedule may invoke it"
  value       = local.role_arn
}

output "log_group_name" {
  description = "Where the function logs"
  value       = aws_cloudwatch_log_group.this.name
}
