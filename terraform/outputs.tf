output "function_name" {
  description = "The function, to invoke it by hand"
  value       = aws_lambda_function.this.function_name
}

output "function_arn" {
  description = "The function, for a schedule of your own"
  value       = aws_lambda_function.this.arn
}

output "function_role_arn" {
  description = "The role with which the function acts"
  value       = local.function_role_arn
}

output "scheduler_role_arn" {
  description = "The role with which a schedule may invoke the function"
  value       = aws_scheduler_schedule.this.target[0].role_arn
}

output "function_security_group_id" {
  description = "The function's security group, where it runs in a VPC and none was given"
  value       = one(aws_security_group.function[*].id)
}

output "log_group_name" {
  description = "Where the function logs"
  value       = aws_cloudwatch_log_group.this.name
}
